"""Inline SVG for the report: bars, dots on a scale, the lines of the diagram. Their colours are in the page's CSS.

Positions are percentages and sizes are pixels, so that a chart takes the width it is given and its text stays legible
on a phone. Charts are hidden from screen readers: the number stands beside each of them. Every function takes numbers
only, so there is nothing to escape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

# Told apart by shape first; drawn around 0,0
_SHAPES = (
    '<circle r="4.5"/>',
    '<rect x="-4" y="-4" width="8" height="8"/>',
    '<path d="M0-5.5 5.5 0 0 5.5-5.5 0z"/>',
    '<path d="M0-5.2 5.4 4.4H-5.4z"/>',
    '<path d="M-4-4 4 4M4-4-4 4"/>',
    '<path d="M0-5V5M-5 0H5"/>',
)
_POINTS = {
    "other": '<circle class="other" r="3"/>',
    "front": '<circle class="front" r="4.5"/>',
    "chosen": '<path class="chosen" d="M0-7 7 0 0 7-7 0z"/>',
}
_BAR, _ROW, _SCATTER = 10, 18, 260
_TICKS = 5


@dataclass(frozen=True)
class Scale:
    """A range of values with round ends and round ticks in between."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @staticmethod
    def over(values: Sequence[float]) -> Scale:
        """Return the scale that holds 0 and all of `values`, those aside that are not finite."""
        finite = [value for value in values if math.isfinite(value)]
        low, high = min([0.0, *finite]), max([0.0, *finite])
        if high - low < 1e-9:
            high = 1.0
        rough = (high - low) / _TICKS
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next((unit * each for each in (1, 2, 2.5, 5) if unit * each >= rough * 0.999), unit * 10)
        first, last = math.floor(low / step), math.ceil(high / step)
        return Scale(first * step, last * step, tuple(step * index for index in range(first, last + 1)))

    def share(self, value: float) -> float:
        """Return where `value` lies, 0 at the low end and 1 at the high one; beyond the ends is at them."""
        return _within((value - self.low) / (self.high - self.low))


def bar(share: float, mark: float | None = None) -> Markup:
    """A bar over `share` of the width, 0 to 1, with a line at `mark`. One longer than 1 fills it and is marked so."""
    over = " over" if share > 1 else ""
    line = "" if mark is None else f'<line x1="{_at(mark)}" x2="{_at(mark)}" y1="0" y2="{_BAR}"/>'
    return Markup(
        f'<svg class="bar{over}" height="{_BAR}" aria-hidden="true">'
        f'<rect class="ground" y="4" width="100%" height="2"/>'
        f'<rect class="fill" width="{_at(share)}" height="{_BAR}"/>{line}</svg>'
    )


def dots(scale: Scale, values: Sequence[float | None]) -> Markup:
    """One marker for each value that there is, in the shape of its place in the sequence; the last lies on top."""
    lines = "".join(
        f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{_ROW}"/>' for x in (_at(scale.share(t)) for t in scale.ticks)
    )
    marks = "".join(
        f'<svg x="{_at(scale.share(value))}" y="{_ROW // 2}" overflow="visible">{_marker(index)}</svg>'
        for index, value in enumerate(values)
        if value is not None and math.isfinite(value)
    )
    return Markup(f'<svg class="dots" height="{_ROW}" aria-hidden="true">{lines}{marks}</svg>')


def scatter(
    across: Scale,
    up: Scale,
    points: Sequence[tuple[float, float, str]],
    steps: Sequence[tuple[float, float]] = (),
    *,
    line: float | None = None,
) -> Markup:
    """Points on two scales, each drawn as its kind says: `other`, `front` or `chosen`; the last lies on top.

    `steps` are joined by a line that goes across first and then up, as a front does; `line` lies across at a value.
    """
    grid = [
        f'<line class="grid" x1="{_at(across.share(tick))}" x2="{_at(across.share(tick))}" y1="0" y2="100%"/>'
        for tick in across.ticks
    ]
    for tick in up.ticks:
        y = _at(1 - up.share(tick))
        grid.append(f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
    names = [f'<text x="4" y="{_at(1 - up.share(tick))}" dy="-4">{tick:g}</text>' for tick in up.ticks[:-1]]
    drawn = []
    if line is not None:
        y = _at(1 - up.share(line))
        drawn.append(f'<line class="limit" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
    for (x, y0), (next_x, next_y) in pairwise(steps):
        left, right = _at(across.share(x)), _at(across.share(next_x))
        low, high = _at(1 - up.share(y0)), _at(1 - up.share(next_y))
        drawn.append(f'<line class="step" x1="{left}" x2="{right}" y1="{low}" y2="{low}"/>')
        drawn.append(f'<line class="step" x1="{right}" x2="{right}" y1="{low}" y2="{high}"/>')
    for x, y0, kind in points:
        place = f'x="{_at(across.share(x))}" y="{_at(1 - up.share(y0))}"'
        drawn.append(f'<svg {place} overflow="visible">{_POINTS[kind]}</svg>')
    body = "".join([*grid, *drawn, *names])
    return Markup(f'<svg class="scatter" height="{_SCATTER}" aria-hidden="true">{body}</svg>')


def point(kind: str) -> Markup:
    """The marker that `scatter` draws for a kind of point."""
    return Markup(
        f'<svg class="key" viewBox="-7 -7 14 14" width="14" height="14" aria-hidden="true">{_POINTS[kind]}</svg>'
    )


def axis(scale: Scale) -> Markup:
    """The scale's ticks, as the head of a column of `dots`."""
    texts = []
    for tick in scale.ticks:
        at = scale.share(tick)
        anchor = "start" if at == 0 else "end" if at == 1 else "middle"
        texts.append(f'<text x="{_at(at)}" y="11" text-anchor="{anchor}">{tick:g}</text>')
    return Markup(f'<svg class="axis" height="14" aria-hidden="true">{"".join(texts)}</svg>')


def legend(index: int) -> Markup:
    """The marker that `dots` draws for the value at `index`."""
    return Markup(
        f'<svg class="key" viewBox="-7 -7 14 14" width="14" height="14" aria-hidden="true">{_marker(index)}</svg>'
    )


def connectors(rows: Sequence[bool]) -> Markup:
    """The lines between boxes that stand in equal columns, above (True) or below (False) of this picture.

    Each leaves its box at three quarters of the width, runs along the middle, and ends at a quarter of the next.
    """
    lines = []
    for index, (here, there) in enumerate(pairwise(rows)):
        leaves, enters = ((index + share) / len(rows) for share in (0.75, 1.25))
        top, bottom = ("0" if row else "100%" for row in (here, there))
        lines += [
            f'<line x1="{_at(leaves)}" x2="{_at(leaves)}" y1="{top}" y2="50%"/>',
            f'<line x1="{_at(leaves)}" x2="{_at(enters)}" y1="50%" y2="50%"/>',
            f'<line x1="{_at(enters)}" x2="{_at(enters)}" y1="50%" y2="{bottom}" marker-end="url(#tip)"/>',
        ]
    size = 'markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto"'
    tip = f'<defs><marker id="tip" {size}><path d="M0 0 7 4 0 8z"/></marker></defs>'
    return Markup(f'<svg class="connectors" aria-hidden="true">{tip}{"".join(lines)}</svg>')


def _marker(index: int) -> str:
    return f'<g class="m{index % len(_SHAPES)}">{_SHAPES[index % len(_SHAPES)]}</g>'


def _within(share: float) -> float:
    return min(max(share, 0.0), 1.0) if not math.isnan(share) else 0.0


def _at(share: float) -> str:
    return f"{100 * _within(share):.2f}%"
