"""What a recipe means by the name of an operator: one of ONNX's, a custom one, or one that the graph alone has."""

from __future__ import annotations

from functools import cache

import onnx
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import did_you_mean
from graphsurgery.graph.expansion.registry import operators


def is_known(op: str, graph: gs.Graph) -> bool:
    """Whether ONNX, or a custom operator, defines it, or `graph` has it, whoever defines that."""
    return op in _schemas() | _custom() or any(is_named(node, op) for node in graphs.walk_nodes(graph))


def unknown(op: str, graph: gs.Graph) -> str:
    """Say that nobody knows an operator, and which known one it may be."""
    known = _schemas() | _custom() | {node.op for node in graphs.walk_nodes(graph)}
    return f"'{op}' is no operator of ONNX, and the graph has none of that name.{did_you_mean(op, known)}"


@cache
def _schemas() -> frozenset[str]:
    """Return the names of all operators that ONNX defines."""
    return frozenset(schema.name for schema in onnx.defs.get_all_schemas())


def _custom() -> frozenset[str]:
    """Return the names of all custom operators, with and without their domains."""
    return frozenset(name for key in operators() for name in (key[1], ".".join(filter(None, key))))


def is_named(node: gs.Node, *names: str) -> bool:
    """Whether a recipe that says one of `names` means the operator of `node`.

    A name that ONNX defines means ONNX's; another domain's operator of that name has to be written with its domain.
    """
    if graphs.is_op(node, *names):
        return True
    own = node.domain not in graphs.STANDARD_DOMAINS
    return own and (f"{node.domain}.{node.op}" in names or (node.op in names and node.op not in _schemas()))
