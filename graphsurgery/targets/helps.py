"""What helps on a target: each line of its file that names passes, with the limit that they are for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphsurgery.targets.load import Named
from graphsurgery.targets.schema import Beyond, Rule, Target, one_or_more

_ANY = "any"  # stands for all operators, as in `tensors`


@dataclass(frozen=True)
class Help:
    """Passes that help where a node of `operators` is beyond `limits`, and what becomes of it without.

    `limits` say what the target takes. Without any, it takes the operators never. `when` is what else the line is for.
    """

    operators: tuple[str, ...]
    passes: tuple[str, ...]
    limits: Mapping[str, str]
    when: Mapping[str, str]
    outcome: Beyond
    source: str
    at: str | None

    @property
    def taken(self) -> str:
        """What the target takes, in a line."""
        limits = ", ".join(f"{name} {told}" for name, told in self.limits.items()) or "never"
        when = ", ".join(f"{name} {told}" for name, told in self.when.items())
        return limits + (f" (when {when})" if when else "")

    def to_json(self) -> dict[str, Any]:
        """Return it as --json has it."""
        told = {
            "operators": list(self.operators),
            "passes": list(self.passes),
            "limits": dict(self.limits),
            "when": dict(self.when),
            "outcome": self.outcome,
            "source": self.source,
            "at": self.at,
        }
        return {key: value for key, value in told.items() if value is not None}


def helps(named: Named) -> list[Help]:
    """Return what helps on a target, in the order of its file; operators of one line together."""
    target, found = named.target, dict[tuple[Any, ...], Help]()
    for operator, rule in _rules(target):
        for passes, limits in _by_passes(rule).items():
            first = next(iter(limits), None)
            when = {name: allowed.told for name, allowed in rule.conditions.items()}
            at = None if rule.at is None else str(rule.at)
            outcome, source = target.outcome(rule, first), str(target.source_of(rule))
            key = (passes, *limits.items(), *when.items(), outcome, source, at)
            before = found[key].operators if key in found else ()
            found[key] = Help((*before, operator), passes, limits, when, outcome, source, at)
    return list(found.values())


def _rules(target: Target) -> Iterator[tuple[str, Rule]]:
    yield from ((_ANY, rule) for rule in target.general)
    for operator in target.operators:
        for rule in target.rules(operator):
            yield operator, rule
    yield _ANY, target.other


def _by_passes(rule: Rule) -> dict[tuple[str, ...], dict[str, str]]:
    """Return the limits of a rule, with what is taken there, by the passes that help beyond them."""
    told = {name: allowed.told for name, allowed in rule.limits.items()}
    told |= {name: "constant" for name in one_or_more(rule.constant)}
    told |= {name: "left out" for name in one_or_more(rule.omitted)}
    told |= {name: "written out" for name in one_or_more(rule.written)}
    if rule.precisions is not None:
        told["precisions"] = ", ".join(one_or_more(rule.precisions))
    if not isinstance(rule.fix, Mapping):
        passes = rule.fixes(None)
        return {passes: told if rule.taken else {}} if passes else {}
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for limit in rule.fix:
        found.setdefault(rule.fixes(limit), {})[limit] = told[limit]
    return found
