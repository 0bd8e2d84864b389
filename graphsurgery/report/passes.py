"""What a pass is, for `python -m graphsurgery passes` and docs/passes.md."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import textwrap
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphsurgery import files
from graphsurgery.operators.pattern import Pattern
from graphsurgery.plugins import source_file
from graphsurgery.rewrite import Pass
from graphsurgery.rewrite.registry import operators_of, picture

_HEAD = """\
# Passes

Made by `python -m graphsurgery passes --markdown > docs/passes.md` from what the files in `passes/` say of themselves;
not to be edited. An exact pass leaves what is computed as it is; an approximate one needs a grant in the recipe. How
to write one: [write-a-pass.md](write-a-pass.md)."""


# beside the files of passes: by their names, the graphs of a test as lines; scripts/draw_passes.py writes it
_DRAWN = "before_after.json"
_MOST_BYTES = 4 * files.MB


def describe_pass(pass_: type[Pass]) -> dict[str, Any]:
    """Return name, effect, operators, patterns, an example, one-line summary, options, and the file of a pass."""
    first_paragraph = picture(pass_).split("\n\n")[0]
    about = inspect.cleandoc(pass_.__doc__ or "")
    return {
        "name": pass_.name,
        "effect": pass_.effect,
        "matches": list(operators_of(pass_)),
        "patterns": patterns(pass_),
        "example": example(pass_),
        "summary": " ".join(first_paragraph.split()),
        "about": "" if about.startswith(f"{pass_.__name__}(") else about,  # dataclass's own docstring says nothing
        "options": [_option(field, typing.get_type_hints(pass_)[field.name]) for field in dataclasses.fields(pass_)],
        "file": source_file(pass_),
    }


def patterns(pass_: type[Pass]) -> list[str]:
    """Return the patterns that stand on the class of a pass, as text."""
    own = {name: value for kind in reversed(pass_.__mro__) for name, value in vars(kind).items()}
    return [text for value in own.values() if isinstance(value, Pattern) for text in value.texts]


def example(pass_: type[Pass]) -> dict[str, list[str]] | None:
    """Return a graph before and after a pass, as its tests have it, in lines of text; None where none is drawn."""
    found = _examples(Path(source_file(pass_)).with_name(_DRAWN)).get(getattr(pass_, "name", ""))
    try:
        return None if found is None else {side: [str(line) for line in found[side]] for side in ("before", "after")}
    except (KeyError, TypeError):  # somebody else's file of that name
        return None


@functools.cache
def _examples(path: Path) -> Mapping[str, Mapping[str, Sequence[str]]]:
    try:
        read = files.read_json(path, _MOST_BYTES)
    except (OSError, ValueError):  # passes of a plug-in have none, as a rule
        return {}
    return read if isinstance(read, dict) else {}


def text_of(pass_: type[Pass]) -> str:
    """Return what a pass says of itself, with pictures: its docstring, its patterns, and a graph of its tests."""
    first, *rest = picture(pass_).split("\n\n")
    drawn = textwrap.indent("\n".join(patterns(pass_)), "    ")
    return "\n\n".join([first, *([drawn] if drawn else []), *rest, *_example_text(pass_)])


def _example_text(pass_: type[Pass]) -> list[str]:
    found = example(pass_)
    if found is None:
        return []
    lines = []
    for side in ("before", "after"):
        for number, line in enumerate(found[side]):
            lines.append(f"    {'' if number else side:<8}{line}".rstrip())
    return ["For example:", "\n".join(lines)]


def _option(field: dataclasses.Field[Any], kind: Any) -> dict[str, str]:
    if field.default is not dataclasses.MISSING:
        default = repr(field.default)
    elif field.default_factory is not dataclasses.MISSING:
        default = repr(field.default_factory())
    else:
        default = "required"
    name = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")
    return {"name": field.name, "type": name, "default": default}


def reference(passes: Sequence[type[Pass]]) -> str:
    """Return a page of Markdown on `passes`: a table of all of them, by verb, then a section for each."""
    described = [(describe_pass(pass_), text_of(pass_)) for pass_ in sorted(passes, key=lambda pass_: pass_.name)]
    lines = ["| | pass | effect | what it does |", "|---|---|---|---|"]
    verbs: set[str] = set()
    for about, _ in described:
        verb = about["name"].partition("-")[0]
        first = "" if verb in verbs else f"**{verb}**"
        verbs.add(verb)
        summary = _escaped(about["summary"]).replace("|", r"\|")
        lines.append(f"| {first} | [{about['name']}](#{about['name']}) | {about['effect']} | {summary} |")
    sections = [_section(about, text) for about, text in described]
    return "\n\n".join([_HEAD, "\n".join(lines), *sections]) + "\n"


def _section(about: Mapping[str, Any], text: str) -> str:
    parts = [f"## {about['name']}", f"Effect: {about['effect']}.{_looks_at(about)}", _markdown(text)]
    if about["options"]:
        rows = [
            "| option | type | default |",
            "|---|---|---|",
            *(
                f"| `{option['name']}` | {_cell(option['type'])} | {_cell(option['default'])} |"
                for option in about["options"]
            ),
        ]
        parts += ["\n".join(rows), *([_markdown(about["about"])] if about["about"] else [])]
    return "\n\n".join(parts)


def _looks_at(about: Mapping[str, Any]) -> str:
    return f" Looks at {', '.join(about['matches'])}." if about["matches"] else ""


def _cell(code: str) -> str:
    return code if code == "required" else "`" + code.replace("|", r"\|") + "`"


def paragraphs(text: str) -> str:
    """Return a docstring with each paragraph and each item of a list on one line, to be wrapped where it is shown.

    The picture stays as it is.
    """
    shown = []
    for kind, *lines in _blocks(text):
        if kind == "text":
            lines = [" ".join(lines)]
        elif kind == "list":
            joined = "\n".join(lines)
            lines = re.sub(r"\n +", " ", joined).split("\n")
        shown.append("\n".join(lines))
    return "\n\n".join(shown)


def _markdown(text: str) -> str:
    """Return a docstring as Markdown: what is indented, the picture, becomes a code block; numbered lines a list."""
    return "\n\n".join(_rendered(kind, lines) for kind, *lines in _blocks(text))


def _blocks(text: str) -> list[list[str]]:
    """Return the paragraphs, pictures and lists of a docstring: the kind of each, then its lines."""
    blocks: list[list[str]] = []
    kind = ""
    for line in text.splitlines():
        was, kind = kind, _kind(line, kind)
        if kind and kind != was:
            blocks.append([kind])
        if kind:
            blocks[-1].append(line)
    return blocks


def _kind(line: str, before: str) -> str:
    """Return what a line belongs to, from the kind of the line before; nothing for an empty line."""
    if not line.strip():
        return ""
    if re.match(r"\d+\. ", line) or (before == "list" and line.startswith(" ")):
        return "list"
    return "picture" if line.startswith(" " if before == "picture" else "    ") else "text"


def _rendered(kind: str, lines: Sequence[str]) -> str:
    if kind == "picture":
        return "\n".join(["```text", inspect.cleandoc("\n".join(["", *lines])), "```"])
    return "\n".join(_escaped(line) for line in lines)


def _escaped(line: str) -> str:
    """Keep Markdown from reading * and < in plain text; what is between backticks is code and stays."""
    pieces = line.split("`")
    return "`".join(piece if odd % 2 else re.sub(r"([*<])", r"\\\1", piece) for odd, piece in enumerate(pieces))
