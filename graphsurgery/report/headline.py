"""How a run ended, in a line: passed, failed and at which pass, or something in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphsurgery.report.sections import count

_COMMAND = "python -m graphsurgery "


@dataclass(frozen=True)
class Headline:
    """`verdict` is a step's or a variant's; `title` says it in words, `text` why, `command` shows it again."""

    verdict: str
    title: str
    text: tuple[str, ...] = ()
    command: str = ""


def headline(run: Mapping[str, Any]) -> Headline:
    """Return how the run that run.json tells of ended."""
    steps = [*(run.get("passes") or ()), *(run.get("checks") or ())]
    variants = run.get("variants") or {}
    error = run.get("error")
    failed = [(step, "") for step in steps if step["verdict"] == "failed"]
    failed += [
        (s, name) for name, each in variants.items() for s in each.get("passes") or () if s["verdict"] == "failed"
    ]
    if error or failed:
        return _failed(error or {}, *(failed[-1] if failed else (None, "")))
    said = tuple(_about_variants(variants))
    weak = [_called(step) for step in steps if step["verdict"] == "inconclusive"]
    if any(variant["verdict"] == "failed" for variant in variants.values()):
        return Headline("failed", "Passed, but a variant failed", said)
    if steps and all(step["verdict"] == "unchecked" for step in steps):
        text = "The run was told to compare nothing. The parts may be wrong, and nobody would know."
        return Headline("unchecked", "Not checked", (text, *said))
    if weak:
        text = f"The samples hold nothing to compare for {_listed(weak)}. Capture others to be sure."
        return Headline("inconclusive", "Passed, with an open question", (text, *said))
    counted = (
        f"{count(len(run.get('passes') or ()), 'pass', 'passes')} and {count(len(run.get('checks') or ()), 'check')}"
    )
    text = f"After {counted}, the result is that of the original model, within the recipe's tolerances."
    return Headline("passed", "Passed", (text, *said))


def _failed(error: Mapping[str, Any], step: Mapping[str, Any] | None, variant: str) -> Headline:
    kind = str(error.get("kind") or "")
    hint, found, command = str(error.get("hint") or "").partition(_COMMAND)
    # the words that lead to the command say nothing once it stands apart
    hint = hint.strip().removesuffix("see it again:").removesuffix("try:").strip().rstrip(";:")
    hint = hint[:1].upper() + hint[1:]
    if step is not None:
        title = f"Failed at {_called(step)}" + (f", variant {variant}" if variant else "")
    else:
        title = {"Difference": "Failed", "KeyboardInterrupt": "Interrupted"}.get(kind, "Stopped by an error")
    worst = (step or {}).get("worst") or {}
    why = error.get("message") or " ".join(filter(None, (worst.get("tensor"), worst.get("reason"))))
    # one-line messages come with the whitespace of what they quote
    text = tuple(" ".join(each.split()) for each in (str(why), hint) if each.strip())
    return Headline("failed", title, text, f"{found}{command}".strip())


def _called(step: Mapping[str, Any]) -> str:
    what = "pass" if step.get("effect") else "check"
    return f"{what} {step['name']}" + (f" on {step['part']}" if step.get("part") else "")


def _about_variants(variants: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, variant in variants.items():
        if variant["verdict"] != "passed":
            reason = variant.get("reason")
            said = {"failed": "failed", "skipped": "was skipped"}.get(variant["verdict"], f"is {variant['verdict']}")
            yield f"Variant {name} {said}{f': {reason}' if reason else ''}."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
