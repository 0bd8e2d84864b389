"""Between which numbers the elements of float tensors lie whatever the model is given, as far as its operators tell.

A Sigmoid lies from 0 to 1, a Clip between its bounds, a constant between its extremes; scaling, shifting and moving
carry that on. Rounding is left out of account: the ends are those of real numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph import attribute
from graphsurgery.operators.operands import optional, scalar
from graphsurgery.operators.value_ranges import MOVES

Bounds = tuple[float, float]

_BOUNDED: dict[str, Bounds] = {
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Softsign": (-1.0, 1.0),
    "Erf": (-1.0, 1.0),
    "Sin": (-1.0, 1.0),
    "Cos": (-1.0, 1.0),
}
# Whatever these keep of a tensor, they keep its bounds.
_KEPT = ("MaxPool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "ReduceMean", "TopK")


def bounds(graph: gs.Graph) -> dict[int, Bounds]:
    """Return the bounds of what the nodes of a sorted graph compute, by the ids of the tensors.

    Those that nothing tells are left out. Constants are read only where they scale, shift or join something.
    """
    known: dict[int, Bounds] = {}

    def of(tensor: gs.Tensor) -> Bounds | None:
        if id(tensor) not in known and isinstance(tensor, gs.Constant):
            value = graphs.constant(tensor)
            if value is not None and value.size and value.dtype.kind == "f":
                known[id(tensor)] = float(value.min()), float(value.max())
        return known.get(id(tensor))

    for node in graph.nodes:
        try:
            found = _written(node, of) if graphs.is_op(node, node.op) else None
        except IndexError:  # it has fewer inputs than the operator asks for
            found = None
        if found is not None and all(map(math.isfinite, found)):
            known.update((id(tensor), found) for tensor in node.outputs[: 1 if graphs.is_op(node, "TopK") else None])
    return known


def _written(node: gs.Node, of: Callable[[gs.Tensor], Bounds | None]) -> Bounds | None:
    if node.op in _BOUNDED:
        return _BOUNDED[node.op]
    if node.op == "Constant":
        value = attribute(node, "value", None)
        return of(value) if isinstance(value, gs.Constant) else None
    if node.op in MOVES or node.op in ("Concat", *_KEPT):
        data = node.inputs if node.op == "Concat" else [node.inputs[i] for i in MOVES.get(node.op, (0,))]
        return _hull([of(tensor) for tensor in data])
    if node.op == "Clip":
        return _clipped(node, of)
    operation = _ARITHMETIC.get(node.op)
    operands = [of(tensor) for tensor in node.inputs] if operation else []
    given = [each for each in operands if each is not None]
    if operation is None or not given or len(given) < len(operands):
        return None
    return operation(given)


def _clipped(node: gs.Node, of: Callable[[gs.Tensor], Bounds | None]) -> Bounds | None:
    """Return the bounds of a Clip whose limits are known, those of its input narrowed where that has some."""
    low, high = of(node.inputs[0]) or (-math.inf, math.inf)
    for index, name in enumerate(("min", "max"), start=1):
        tensor = optional(node, index)
        limit = attribute(node, name, None) if tensor is None else scalar(tensor)
        if limit is not None:
            low, high = (max(low, limit), max(high, limit)) if name == "min" else (min(low, limit), min(high, limit))
    return low, high


def _hull(parts: Sequence[Bounds | None]) -> Bounds | None:
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    return min(low for low, _ in known), max(high for _, high in known)


def _corners(operation: Callable[[float, float], float]) -> Callable[[list[Bounds]], Bounds | None]:
    """Make an operation on bounds of one on numbers that has its extremes at the ends of both operands."""

    def apply(operands: list[Bounds]) -> Bounds | None:
        if len(operands) != 2:
            return None
        values = [operation(a, b) for a in operands[0] for b in operands[1]]
        return min(values), max(values)

    return apply


def _quotient(operands: list[Bounds]) -> Bounds | None:
    low, high = operands[1]
    return None if low <= 0 <= high else _corners(lambda a, b: a / b)(operands)


def _power(operands: list[Bounds]) -> Bounds | None:
    """Return the bounds of a square; of other powers nothing is said."""
    (low, high), exponent = operands
    if exponent != (2.0, 2.0):
        return None
    return (0.0 if low <= 0 <= high else min(low * low, high * high)), max(low * low, high * high)


_ARITHMETIC: dict[str, Callable[[list[Bounds]], Bounds | None]] = {
    "Add": _corners(lambda a, b: a + b),
    "Sub": _corners(lambda a, b: a - b),
    "Mul": _corners(lambda a, b: a * b),
    "Div": _quotient,
    "Pow": _power,
    "Neg": lambda operands: (-operands[0][1], -operands[0][0]),
    "Relu": lambda operands: (max(0.0, operands[0][0]), max(0.0, operands[0][1])),
}
