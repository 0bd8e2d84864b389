"""Where the boxes of a scene stand, how large they are, and which way the lines go.

The sizes follow from the texts, by widths that the usual fonts don't go beyond: the file is drawn with whatever fonts
its reader has.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphsurgery.picture.scene import Box, Scene
from graphsurgery.processes.graphviz_process import Arranged, Point, Route, Sized, lay_out

TITLE_HEIGHT, LINE_HEIGHT = 17, 13  # pixels, as in picture.css
PADDING = 6
_TITLE, _LINE = 7.9, 6.1  # widths of a letter: semibold of 12 pixels, monospace of 10
_SIDES, _LEAST = 16, 44
BAR_HEIGHT = 4  # the shares of outcomes in a fold
_MOST_LABELS = 120  # lines that get room for their labels: of hundreds, Graphviz takes minutes


@dataclass(frozen=True)
class Placed:
    """A scene with the size of each of its boxes, and what stands where."""

    scene: Scene
    sizes: tuple[Point, ...]
    arranged: Arranged


def place(scene: Scene, seconds: float | None = None) -> Placed:
    """Lay a scene out, in so many seconds or a minute.

    Raises MissingTool without the extra `picture`, PassError where Graphviz fails.
    """
    scene = scene.shown()
    sizes = tuple(size_of(box) for box in scene.boxes)
    number = {box.key: place for place, box in enumerate(scene.boxes)}
    roomy = len(scene.lines) <= _MOST_LABELS
    lines = [
        Sized(number[line.source], number[line.target], *_room(line.label if roomy else "")) for line in scene.lines
    ]
    return Placed(scene, sizes, _begun_left(lay_out(sizes, lines, seconds)))


def _room(label: str) -> Point:
    return (width(label) + 6, LINE_HEIGHT + 2) if label else (0, 0)


def _begun_left(arranged: Arranged) -> Arranged:
    """Return it mirrored where it begins in the right half: on a phone the left edge is what is seen first."""
    wide, high = arranged.size
    tops = [x for x, y in arranged.boxes if y == min(y for _, y in arranged.boxes)]
    if not tops or sum(tops) / len(tops) <= wide / 2:
        return arranged

    def other(point: Point) -> Point:
        return round(wide - point[0], 1), point[1]

    routes = [
        Route(list(map(other, route.points)), other(route.end), route.label and other(route.label))
        for route in arranged.lines
    ]
    return Arranged((wide, high), list(map(other, arranged.boxes)), routes)


def start(placed: Placed) -> float:
    """Return how far from the left the first of the topmost boxes is, as a share of the width."""
    top = min((y - high / 2 for (_, y), (_, high) in zip(placed.arranged.boxes, placed.sizes, strict=True)), default=0)
    lefts = [x for (x, y), (_, high) in zip(placed.arranged.boxes, placed.sizes, strict=True) if y - high / 2 < top + 1]
    return min(lefts, default=0) / max(placed.arranged.size[0], 1)


def size_of(box: Box) -> Point:
    """Return the width and height of a box in pixels."""
    widest = max([_TITLE * len(mark(box) + box.title), *(width(line) for line in box.lines)])
    return max(widest + _SIDES, _LEAST), TITLE_HEIGHT + LINE_HEIGHT * len(box.lines) + PADDING + BAR_HEIGHT * has_bar(
        box
    )


def has_bar(box: Box) -> bool:
    """Whether a box shows the shares of several outcomes."""
    return box.kind == "fold" and len(box.outcomes) > 1


def width(text: str) -> float:
    """Return how wide a line in a box, or the label of a line, is in pixels."""
    return _LINE * len(text)


def mark(box: Box) -> str:
    """Return the sign before the title that says what became of a box: colours alone don't tell everybody."""
    return {"gone": "\N{MINUS SIGN} ", "new": "+ ", "changed": "~ ", "differs": "\N{NOT EQUAL TO} "}.get(box.change, "")
