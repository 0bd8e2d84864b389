"""A scene that is laid out as SVG: classes, whose colours are in picture.css, and texts that a pointer brings up."""

from __future__ import annotations

import math
from collections.abc import Iterator

from markupsafe import Markup

from graphsurgery.picture.layout import (
    BAR_HEIGHT,
    LINE_HEIGHT,
    PADDING,
    TITLE_HEIGHT,
    Placed,
    has_bar,
    mark,
    start,
    width,
)
from graphsurgery.picture.scene import OUTCOMES, Box
from graphsurgery.processes.graphviz_process import Point, Route

_MARGIN = 8
_ARROW = 6.5
_LEAST_SCALE = 0.9
_FAR = 240  # pixels from the left, where a phone's screen would show no box


def size(placed: Placed) -> Point:
    """Return the width and height of a picture in whole pixels."""
    wide, high = placed.arranged.size
    return math.ceil(wide) + 2 * _MARGIN, math.ceil(high) + 2 * _MARGIN


def figure(placed: Placed, described: str) -> Markup:
    """Return the picture for an HTML page; `described` is what it is called where it isn't seen."""
    wide, high = size(placed)
    # a picture that is too wide is scaled a little, and scrolled to where it begins by the browsers that know how
    share = start(placed)
    begin = Markup('<span class="begin" style="left:calc({:.0f}% - 9rem)"></span>').format(100 * share)
    plate = Markup('<div class="plate" style="width:{}px;min-width:{:.0f}px">').format(wide, _LEAST_SCALE * wide)
    head = Markup('<svg class="graph" role="img" aria-label="{}" width="100%" viewBox="0 0 {} {}">')
    drawing = head.format(described, wide, high) + content(placed) + Markup("</svg>")
    return plate + (begin if share * wide > _FAR else Markup("")) + drawing + Markup("</div>")


def content(placed: Placed) -> Markup:
    """Return what stands in the <svg>: the lines, then the boxes over them."""
    drawn = [*_lines(placed), *_boxes(placed)]
    return Markup('<g transform="translate({0} {0})">').format(_MARGIN) + Markup("").join(drawn) + Markup("</g>")


def _boxes(placed: Placed) -> Iterator[Markup]:
    for box, (wide, high), (x, y) in zip(placed.scene.boxes, placed.sizes, placed.arranged.boxes, strict=True):
        classes = " ".join(filter(None, ("box", box.kind, _outcome(box), box.change)))
        head = Markup('<g class="{}" transform="translate({:g} {:g})">').format(
            classes, round(x - wide / 2, 1), round(y - high / 2, 1)
        )
        about = Markup("<title>{}</title>").format("\n".join(box.about)) if box.about else Markup("")
        frame = _frame(wide, high, _roundness(box, high))
        if box.kind == "fold":  # as if there were more behind it
            frame = _frame(wide, high, 3, ' x="3" y="3"') + frame
        yield head + about + frame + _bar(box, wide, high) + _texts(box, wide) + Markup("</g>")


def _frame(wide: float, high: float, roundness: float, place: str = "") -> Markup:
    size = Markup(' width="{:g}" height="{:g}" rx="{:g}"/>').format(wide, high, roundness)
    return Markup("<rect") + Markup(place) + size


def _roundness(box: Box, high: float) -> float:
    """Return the radius of a box's corners: ends of the graph are round."""
    if box.kind not in ("input", "output"):
        return 3
    return 8 if box.lines else high / 2


def _outcome(box: Box) -> str:
    return next(iter(box.outcomes)) if len(box.outcomes) == 1 else ""


def _bar(box: Box, wide: float, high: float) -> Markup:
    """Return the shares of the outcomes in a fold, along its lower edge."""
    total, at = sum(box.outcomes.values()), 2.0
    if not has_bar(box):
        return Markup("")
    found = Markup("")
    for outcome in (each for each in OUTCOMES if each in box.outcomes):
        share = (wide - 4) * box.outcomes[outcome] / total
        found += Markup('<rect class="share {}" x="{:.1f}" y="{:g}" width="{:.1f}" height="{}"/>').format(
            outcome, at, high - BAR_HEIGHT - 2, share, BAR_HEIGHT
        )
        at += share
    return found


def _texts(box: Box, wide: float) -> Markup:
    down = PADDING / 2 + TITLE_HEIGHT - 5
    found = Markup('<text x="{:g}" y="{:g}">{}</text>').format(wide / 2, down, mark(box) + box.title)
    for number, line in enumerate(box.lines, start=1):
        found += Markup('<text class="more" x="{:g}" y="{:g}">{}</text>').format(
            wide / 2, down + LINE_HEIGHT * number, line
        )
    return found


def _lines(placed: Placed) -> Iterator[Markup]:
    faded = {box.key: box.change == "kept" or box.kind == "beyond" for box in placed.scene.boxes}
    for line, route in zip(placed.scene.lines, placed.arranged.lines, strict=True):
        pale = " pale" if faded[line.source] and faded[line.target] else ""
        about = Markup("<title>{}</title>").format(line.about) if line.about else Markup("")
        way = Markup('<path d="{}"/><path class="arrow" d="{}"/>').format(_curve(route), _arrow(route))
        yield Markup('<g class="line{}">').format(pale) + about + way + _label(line.label, route) + Markup("</g>")


def _curve(route: Route) -> str:
    (x, y), *rest = route.points
    return f"M{x:g} {y:g}C" + " ".join(f"{a:g} {b:g}" for a, b in rest)


def _arrow(route: Route) -> str:
    """Return a triangle from where the curve ends to where the arrow does."""
    (x, y), (tip_x, tip_y) = route.points[-1], route.end
    length = math.hypot(tip_x - x, tip_y - y) or 1
    along, across = ((tip_x - x) / length, (tip_y - y) / length), ((y - tip_y) / length, (tip_x - x) / length)
    base = (tip_x - along[0] * _ARROW, tip_y - along[1] * _ARROW)
    half = _ARROW / 2.2
    corners = [(base[0] + side * across[0] * half, base[1] + side * across[1] * half) for side in (1, -1)]
    return f"M{tip_x:g} {tip_y:g}" + "".join(f"L{a:.1f} {b:.1f}" for a, b in corners) + "Z"


def _label(text: str, route: Route) -> Markup:
    if not text:
        return Markup("")
    x, y = route.label or route.points[len(route.points) // 2]
    wide = width(text) + 4
    ground = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}"/>').format(
        x - wide / 2, y - LINE_HEIGHT / 2, wide, LINE_HEIGHT
    )
    return ground + Markup('<text x="{:g}" y="{:.1f}">{}</text>').format(x, y + 3.5, text)


def swatch(kind: str) -> Markup:
    """Return the sign of an outcome or a change for a legend."""
    return Markup('<svg class="graph key" width="14" height="14" aria-hidden="true"><g class="box {}">').format(
        kind
    ) + Markup('<rect x="1" y="1" width="12" height="12" rx="2"/></g></svg>')
