"""Graphviz in a process of its own: it prints what it likes, and on some graphs it ends the process or has no end.

    graphviz_process.lay_out(boxes, lines)  ->  Arranged

`python -m graphsurgery.processes.graphviz_process` is the other end: it imports pygraphviz once, whose wheels bring
Graphviz along. All sizes and places are pixels (Graphviz's points), y downwards.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple

from graphsurgery.errors import missing_extra
from graphsurgery.processes import worker
from graphsurgery.processes.worker import Running, Worker

_INCH = 72
_SECONDS, _MEMORY_MB = 60.0, 4000

Point = tuple[float, float]


class Sized(NamedTuple):
    """A line from one box to another, by their places in the list, and the size of its label, 0 by 0 without one."""

    source: int
    target: int
    width: float
    height: float


class Route(NamedTuple):
    """A line: the points of its Bezier curve, one and three for each piece; its arrow's tip; its label's centre."""

    points: list[Point]
    end: Point
    label: Point | None


class Arranged(NamedTuple):
    """The size of it all, the centre of each box, the way of each line."""

    size: Point
    boxes: list[Point]
    lines: list[Route]


def is_installed() -> bool:
    """Whether pygraphviz is here."""
    return importlib.util.find_spec("pygraphviz") is not None


def require() -> None:
    """Raise MissingTool where pygraphviz isn't installed."""
    if not is_installed():
        raise missing_extra("pygraphviz", "picture", "a picture")


def lay_out(boxes: Sequence[Point], lines: Sequence[Sized], seconds: float | None = None) -> Arranged:
    """Place boxes of these sizes above each other as lines lead, the lines around them.

    Raises MissingTool without pygraphviz, PassError where Graphviz crashes or takes `seconds`, a minute if not given.
    """
    require()
    with running.use() as process:
        reply = process.ask({"boxes": boxes, "lines": lines}, _SECONDS if seconds is None else seconds, _MEMORY_MB)
    routes = [Route(points, end, label) for points, end, label in reply["lines"]]
    return Arranged(reply["size"], reply["boxes"], routes)


_CURE = "draw less of it, with --around or a smaller --most"
running = Running(lambda: Worker("graphsurgery.processes.graphviz_process", "a picture: Graphviz", _CURE))


# --- the other end ----------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer the requests on stdin until it closes."""
    worker.serve(_load, _answer)


def _load() -> None:
    try:
        import pygraphviz  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error}; pip install 'graphsurgery[picture]'") from error


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    import pygraphviz

    graph = pygraphviz.AGraph(directed=True, strict=False)
    # labels have ranks of their own between those of the boxes
    apart = 0.24 if any(width for _, _, width, _ in request["lines"]) else 0.42
    graph.graph_attr.update(rankdir="TB", nodesep="0.16", ranksep=f"{apart}", splines="spline", pad="0", margin="0")
    graph.node_attr.update(shape="box", fixedsize="true", label="")
    graph.edge_attr.update(arrowsize="0.6")
    for number, (width, height) in enumerate(request["boxes"]):
        graph.add_node(number, width=width / _INCH, height=height / _INCH)
    for number, (source, target, width, height) in enumerate(request["lines"]):
        label = _blank(width, height) if width else ""
        graph.add_edge(source, target, key=number, label=label)
    graph.layout("dot")
    left, bottom, right, top = _numbers(graph.graph_attr["bb"])
    return {
        "size": (right - left, top - bottom),
        "boxes": [_place(graph.get_node(number).attr["pos"], top) for number in range(len(request["boxes"]))],
        "lines": [
            _route(graph.get_edge(source, target, key=number).attr, top)
            for number, (source, target, *_) in enumerate(request["lines"])
        ],
    }


def _blank(width: float, height: float) -> str:
    """Return a label that takes so much room, whatever fonts there are."""
    size = f'fixedsize="true" width="{width:.0f}" height="{height:.0f}"'
    return f'<<table border="0" cellborder="0" cellpadding="0" cellspacing="0"><tr><td {size}></td></tr></table>>'


def _route(attributes: Any, top: float) -> tuple[list[Point], Point, Point | None]:
    points: list[Point] = []
    end: Point | None = None
    for piece in attributes["pos"].split():
        if piece.startswith(("e,", "s,")):
            end = _place(piece[2:], top) if piece.startswith("e,") else end
        else:
            points.append(_place(piece, top))
    label = attributes["lp"]
    return points, end or points[-1], _place(label, top) if label else None


def _place(text: str, top: float) -> Point:
    x, y = _numbers(text)
    return round(x, 1), round(top - y, 1)


def _numbers(text: str) -> list[float]:
    return [float(each) for each in text.split(",")]


if __name__ == "__main__":
    serve()
