"""A bar plot as an SVG file of its own: no script, no network, light or dark as its reader's system is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Bar", "bar_plot"]

_WIDTH, _MARGIN, _ROW, _THICK = 800, 16, 20, 12
_LABELS = 388  # where the bars begin
_VALUES = 56  # what is kept free behind the longest bar for its number
_LONGEST_LABEL, _LONGEST_TITLE, _LONGEST_LINE = 60, 76, 108
_TICKS = 5
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_STYLE = """\
.bar-plot { background: #fcfcfb; max-width: 100%; height: auto; }
.bar-plot text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
.bar-plot .ground { fill: #fcfcfb; }
.bar-plot text { fill: #52514e; }
.bar-plot .title { fill: #0b0b0b; font-size: 15px; font-weight: 600; }
.bar-plot .label { font-size: 11px; }
.bar-plot .number { fill: #0b0b0b; font-variant-numeric: tabular-nums; }
.bar-plot .number { paint-order: stroke; stroke: #fcfcfb; stroke-width: 3px; }
.bar-plot .grid { stroke: #e4e3df; }
.bar-plot .zero { stroke: #8a8984; }
.bar-plot .goal { stroke: #b3261e; stroke-dasharray: 4 3; }
.bar-plot .bar { fill: #2a78d6; }
.bar-plot .below { fill: #b3261e; }
@media (prefers-color-scheme: dark) {
  .bar-plot { background: #1a1a19; }
  .bar-plot .ground { fill: #1a1a19; }
  .bar-plot text { fill: #c3c2b7; }
  .bar-plot .title, .bar-plot .number { fill: #ffffff; }
  .bar-plot .number { stroke: #1a1a19; }
  .bar-plot .grid { stroke: #33332f; }
  .bar-plot .zero { stroke: #7d7c76; }
  .bar-plot .goal { stroke: #f2837a; }
  .bar-plot .bar { fill: #3987e5; }
  .bar-plot .below { fill: #f2837a; }
}
"""


class Bar(NamedTuple):
    """A label, the number that the bar shows (None: infinite, so that there is none), and what else there is to say."""

    label: str
    value: float | None
    note: str = ""


def bar_plot(
    title: str, explanation: str, bars: Sequence[Bar], unit: str, *, goal: float | None = None, most: int = 60
) -> str:
    """Draw horizontal bars in the given order, the first `most` of them, and return the SVG.

    The bars begin at 0. With a `goal` there is a line at it, and bars that don't reach it have another colour.
    Whatever the texts hold is escaped; long ones are shortened and stand in full where one points at them.
    """
    shown = bars[:most]
    low, high, ticks = _scale([bar.value for bar in shown if bar.value is not None and math.isfinite(bar.value)], goal)
    left, right = _LABELS, _WIDTH - _VALUES - _MARGIN

    def across(value: float) -> float:
        return round(left + (right - left) * (min(max(value, low), high) - low) / (high - low), 1)

    lines = [*_wrapped(explanation)]
    if len(bars) > len(shown):
        lines.append(f"Not shown: {len(bars) - len(shown)} more.")
    top = 44 + 17 * len(lines) + 24
    bottom = top + _ROW * len(shown)
    height = bottom + (30 if goal is not None else 14)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="bar-plot" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" role="img">',
        f"<title>{_text(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{_WIDTH}" height="{height}"/>',
        f'<text class="title" x="{_MARGIN}" y="30">{_text(_shortened(title, _LONGEST_TITLE))}</text>',
    ]
    parts += [f'<text x="{_MARGIN}" y="{52 + 17 * at}">{_text(line)}</text>' for at, line in enumerate(lines)]
    for tick in ticks:
        kind = "grid" if tick else "zero"
        parts.append(f'<path class="{kind}" d="M{across(tick)} {top - 4}V{bottom}"/>')
        name = f"{tick:g} {unit}" if tick == ticks[-1] else f"{tick:g}"
        parts.append(f'<text x="{across(tick)}" y="{top - 10}" text-anchor="middle">{_text(name)}</text>')
    if goal is not None:
        parts.append(f'<path class="goal" d="M{across(goal)} {top - 4}V{bottom + 4}"/>')
        said = _text(f"goal {goal:g} {unit}")
        parts.append(f'<text x="{across(goal)}" y="{bottom + 18}" text-anchor="middle">{said}</text>')
    for at, bar in enumerate(shown):
        parts += _row(bar, top + _ROW * at, across, unit, goal)
    return "\n".join([*parts, "</svg>", ""])


def _row(bar: Bar, top: int, across: Callable[[float], float], unit: str, goal: float | None) -> Iterator[str]:
    middle = top + _ROW / 2 + 4
    value = bar.value
    number = "none lost" if value is None else f"{value:.1f}"
    full = f"{bar.label}: {number}{f' {unit}' if value is not None else ''}{f', {bar.note}' if bar.note else ''}"
    yield f"<g><title>{_text(full)}</title>"
    label = _text(_shortened(bar.label, _LONGEST_LABEL))
    yield f'<text class="label" x="{_LABELS - 8}" y="{middle:g}" text-anchor="end">{label}</text>'
    end = across(0.0 if value is None or math.isnan(value) else value)
    zero = across(0.0)
    if value is not None and end != zero:
        kind = "bar below" if goal is not None and value < goal else "bar"
        begin, length = min(zero, end), round(abs(end - zero), 1)
        space = (_ROW - _THICK) // 2
        yield f'<rect class="{kind}" x="{begin}" y="{top + space}" width="{length}" height="{_THICK}" rx="2"/>'
    yield f'<text class="number" x="{max(end, zero) + 6:g}" y="{middle:g}">{_text(number)}</text></g>'


def _scale(values: Sequence[float], goal: float | None) -> tuple[float, float, list[float]]:
    """Return round ends around 0 and all values, and round numbers between them."""
    low, high = min([0.0, *values]), max([0.0, *values, goal or 0.0])
    if high - low < 1e-9:
        high = 1.0
    rough = (high - low) / _TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * each for each in (1, 2, 5, 10) if unit * each >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return first * step, last * step, [round(step * at, 10) for at in range(first, last + 1)]


def _shortened(text: str, most: int) -> str:
    """Take the middle out of a long text: names in a model differ at their ends."""
    if len(text) <= most:
        return text
    ahead = most // 3
    return f"{text[:ahead]}\N{HORIZONTAL ELLIPSIS}{text[ahead + 1 - most :]}"


def _wrapped(text: str) -> Iterator[str]:
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > _LONGEST_LINE:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    if line:
        yield line


def _text(text: str) -> str:
    """Escape a text; characters that XML can't hold become U+FFFD."""
    return escape(_NOT_XML.sub("\ufffd", text))
