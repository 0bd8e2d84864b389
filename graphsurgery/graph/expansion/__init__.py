"""Custom operators: what an exporter or a vendor has made up, written in operators of ONNX so that it can be run.

A file keeps such a node, passes step over it and what is written out holds it still; the checker, shape inference and
ONNX Runtime are given `expanded(model)`, in which standard nodes stand in its place. So an operator says what it
computes once, and its types and shapes follow. Which operators there are is not known here: they are found.

operator    what an operator declares, and how a node is read by it
writer      how it writes the nodes that compute it
registry    where operators are found
expand      expanded(model), and the way back of what was inferred
"""

from graphsurgery.graph.expansion.expand import (
    custom_nodes,
    expanded,
    inferred_of,
    operator_name,
    unknown_operator,
)
from graphsurgery.graph.expansion.operator import CustomOperator
from graphsurgery.graph.expansion.writer import Tensor, Writer

__all__ = [
    "CustomOperator",
    "Tensor",
    "Writer",
    "custom_nodes",
    "expanded",
    "inferred_of",
    "operator_name",
    "unknown_operator",
]
