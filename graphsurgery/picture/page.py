"""Pictures in a file of their own: an SVG, or an HTML page. Neither needs a network, a script or a font."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from graphsurgery.picture import svg
from graphsurgery.picture.layout import Placed, place
from graphsurgery.picture.places import Place
from graphsurgery.picture.scene import CHANGES, OUTCOMES, Scene
from graphsurgery.text import visible

# what the outcomes and changes are called
TOLD = {
    "taken": "taken",
    "cpu": "left to the CPU",
    "wrong": "computed wrong",
    "refused": "refused",
    "crash": "crashes the compiler",
    "unknown": "not known",
    "gone": "gone",
    "new": "new",
    "changed": "changed",
    "differs": "differs first",
    "kept": "as it was",
}
_GAP, _HEADING, _LETTER = 24, 22, 7.2  # pixels


@dataclass(frozen=True)
class Figure:
    """One picture, or several side by side, each with its caption, under a title."""

    title: str
    panels: Sequence[tuple[str, Scene]]

    def to_json(self) -> dict[str, Any]:
        """Return it as --json has it."""
        return {"title": self.title, "panels": [{"caption": text, **scene.to_json()} for text, scene in self.panels]}


def figure_of(place: Place) -> Figure:
    """Return the figure of a place where two graphs differ."""
    several = f"{place.count} places alike: " if place.count > 1 else ""
    sides = zip(("before", "after"), place.nodes, (place.before, place.after), strict=True)
    return Figure(
        several + place.title,
        [(f"{when}, {nodes:,} {'node' if nodes == 1 else 'nodes'}", s) for when, nodes, s in sides],
    )


@dataclass(frozen=True)
class Drawn:
    """A figure that is laid out."""

    title: str
    panels: Sequence[tuple[str, Placed]]

    def html(self) -> list[tuple[str, Markup]]:
        """Return the captions and the drawings for a page."""
        return [
            (caption, svg.figure(placed, f"{self.title}: {caption}".strip(": "))) for caption, placed in self.panels
        ]


def draw(figure: Figure, seconds: float | None = None) -> Drawn:
    """Lay a figure out. Raises as `layout.place`."""
    return Drawn(figure.title, [(caption, place(scene, seconds)) for caption, scene in figure.panels])


def legend(figures: Sequence[Figure]) -> list[tuple[Markup, str]]:
    """Return the sign and the words for each outcome, with its number of nodes, and each change in some figures."""
    boxes = [box for figure in figures for _, scene in figure.panels for box in scene.boxes]
    outcomes = sum((Counter(box.outcomes) for box in boxes), Counter[str]())
    changes = {box.change for box in boxes}
    found = [(svg.swatch(each), f"{outcomes[each]:,} {TOLD[each]}") for each in OUTCOMES if outcomes[each]]
    return found + [(svg.swatch(each), TOLD[each]) for each in CHANGES if each in changes]


def css() -> str:
    """Return the colours of pictures."""
    return _file("picture.css")


def html_page(title: str, told: Sequence[str], figures: Sequence[Figure]) -> str:
    """Return a page with figures below its title and what is `told` of them. Raises as `draw`."""
    drawn = [(each.title, each.html()) for each in map(draw, figures)]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_file("picture.html.jinja"))
    return visible(template.render(title=title, told=told, legend=legend(figures), figures=drawn, css=css()))


def svg_page(title: str, told: Sequence[str], figures: Sequence[Figure]) -> str:
    """Return an SVG file with what `html_page` holds, all below each other. Raises as `draw`."""
    wide, down, pieces = 0.0, float(_GAP), []

    def write(text: str, kind: str, left: float = 12) -> None:
        nonlocal wide
        pieces.append(Markup('<text class="{}" x="{:g}" y="{:g}">{}</text>').format(kind, left, down, visible(text)))
        wide = max(wide, left + _LETTER * len(text) + 12)

    write(title, "title")
    for text in told:
        down += 18
        write(text, "told")
    for sign, text in legend(figures):
        down += 20
        pieces.append(Markup('<g transform="translate(12 {:g})">{}</g>').format(down - 12, sign))
        write(text, "told", 32)
    for each in map(draw, figures):
        down += _GAP + 8
        if each.title:
            write(each.title, "title")
        left, deepest = 0.0, 0.0
        for caption, placed in each.panels:
            high = 0
            if caption:
                down += _HEADING
                write(caption, "told", left + 12)
                down -= _HEADING
                high = _HEADING + 4
            own_wide, own_high = svg.size(placed)
            pieces.append(
                Markup('<g transform="translate({:g} {:g})">{}</g>').format(left, down + high + 4, svg.content(placed))
            )
            left += max(own_wide, _LETTER * len(caption) + 12) + _GAP
            deepest = max(deepest, high + own_high)
        down += deepest + 4
        wide = max(wide, left - _GAP)
    size = (math.ceil(wide), math.ceil(down + 8))
    style = css()
    head = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="graph" width="{0}" height="{1}" viewBox="0 0 {0} {1}">\n'
        "<title>{2}</title>\n<style>{3}</style>\n"
        '<rect class="page" width="100%" height="100%"/>\n'
    ).format(*size, visible(title), Markup(style))
    return head + Markup("\n").join(pieces) + Markup("\n</svg>\n")


@cache
def _file(name: str) -> str:
    return resources.files("graphsurgery.picture").joinpath(name).read_text(encoding="utf-8")
