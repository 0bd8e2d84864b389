"""What is drawn: boxes and the lines between them. Where they stand is the layout's business, colours are the CSS's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from graphsurgery.text import visible

# In the order of a legend. What becomes of a node at a target, and what became of it between two graphs.
OUTCOMES = ("taken", "cpu", "wrong", "refused", "crash", "unknown")
CHANGES = ("gone", "new", "changed", "differs", "kept")


@dataclass(frozen=True)
class Box:
    """A node, an input or output of the graph, a fold of several nodes, or what lies `beyond` a region.

    `title` and `lines` stand in it, `about` is what a pointer brings up. `outcomes` counts its nodes by what becomes of
    them at a target, where one was asked for, `change` is one of CHANGES, where two graphs are compared.
    """

    key: str
    title: str
    kind: str = "node"  # node, weights (a node that has some), input, output, fold, beyond
    lines: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    outcomes: Mapping[str, int] = field(default_factory=dict)
    change: str = ""


@dataclass(frozen=True)
class Line:
    """What flows from one box to another: `label` stands beside it, `about` is what a pointer brings up."""

    source: str
    target: str
    label: str = ""
    about: str = ""


@dataclass(frozen=True)
class Scene:
    """What one picture shows."""

    boxes: tuple[Box, ...] = ()
    lines: tuple[Line, ...] = ()

    def shown(self) -> Scene:
        """Return it with texts that XML may hold: a file, or a run.json, may call things anything."""
        boxes = [
            replace(
                box,
                title=visible(box.title),
                lines=tuple(map(visible, box.lines)),
                about=tuple(map(visible, box.about)),
            )
            for box in self.boxes
        ]
        lines = [replace(line, label=visible(line.label), about=visible(line.about)) for line in self.lines]
        return Scene(tuple(boxes), tuple(lines))

    def to_json(self) -> dict[str, Any]:
        """Return it as run.json has it: what is empty is left out."""
        return {
            "boxes": [_without_empty(asdict(box)) for box in self.boxes],
            "lines": [_without_empty(asdict(line)) for line in self.lines],
        }

    @staticmethod
    def from_json(content: Mapping[str, Sequence[Mapping[str, Any]]]) -> Scene:
        """Return what `to_json` was made of; a line between boxes that aren't there is left out."""
        boxes = [
            Box(
                box["key"],
                box["title"],
                box.get("kind", "node"),
                tuple(box.get("lines", ())),
                tuple(box.get("about", ())),
                box.get("outcomes", {}),
                box.get("change", ""),
            )
            for box in content["boxes"]
        ]
        keys = {box.key for box in boxes}
        lines = [
            Line(line["source"], line["target"], line.get("label", ""), line.get("about", ""))
            for line in content["lines"]
            if {line["source"], line["target"]} <= keys
        ]
        return Scene(tuple(boxes), tuple(lines))


def _without_empty(told: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in told.items() if value}
