"""Limits of a whole graph, beyond which none of its nodes is taken."""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from graphsurgery.graph.queries import subgraphs
from graphsurgery.graph.reach import read
from graphsurgery.targets.schema import Rule, Scalar, Target


def _captured(graph: gs.Graph, live: set[int]) -> Scalar:
    """Return whether a body of an If, Loop or Scan reads what a live node outside of it computes."""
    made = {id(tensor) for node in graph.nodes if id(node) in live for tensor in node.outputs}
    inner = (tensor for node in graph.nodes if subgraphs(node) for tensor in _read_inside(node))
    return any(id(tensor) in made for tensor in inner)


def _read_inside(node: gs.Node) -> list[gs.Tensor]:
    own = {id(tensor) for tensor in node.inputs}
    return [tensor for tensor in read(node) if id(tensor) not in own]


WHOLE_FACTS: dict[str, tuple[str, Callable[[gs.Graph, set[int]], Scalar]]] = {
    "captured": ("whether a body of a node (If, Loop, Scan) reads what a node outside of it computes", _captured),
}


def broken_by(graph: gs.Graph, live: set[int], target: Target) -> tuple[Rule, str, Scalar] | None:
    """Return the limit that a whole graph breaks, its rule and what is seen; None where it keeps all."""
    for name, allowed in target.whole.limits.items():
        seen = WHOLE_FACTS[name][1](graph, live)
        if not allowed.holds(seen):
            return target.whole, name, seen
    return None
