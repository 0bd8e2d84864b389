"""Between which two integers the elements of a tensor lie, whatever the model is given.

Intervals come from constants, from narrow types and from operators that count within a known size, and are carried on
by exact interval arithmetic. What can't be proven is None, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph import attribute, is_op
from graphsurgery.operators.operands import optional
from graphsurgery.rewrite import Editor

Interval = tuple[int, int]

INT32: Interval = (-(2**31), 2**31 - 1)
INT64: Interval = (-(2**63), 2**63 - 1)

# Operators whose output holds nothing but elements of some inputs.
MOVES = {
    **dict.fromkeys(("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Tile"), (0,)),
    **dict.fromkeys(("Slice", "Gather", "GatherElements", "GatherND", "Split", "Compress"), (0,)),
    "Where": (1, 2),
}


class Intervals:
    """The intervals of the integer tensors of a model, by identity; the graphs must be sorted."""

    def __init__(self, edit: Editor) -> None:
        self._edit = edit
        self._known: dict[int, Interval | None] = {}
        for graph in graphs.walk_graphs(edit.root):
            for node in graph.nodes:
                for index, tensor in enumerate(node.outputs):
                    if tensor.name and not graphs.is_constant(tensor):
                        self._known[id(tensor)] = self._written(node, index)

    def of(self, tensor: gs.Tensor) -> Interval | None:
        """Return the least and the largest value that an element of `tensor` can have; None if nothing tells."""
        if id(tensor) not in self._known:
            value = graphs.constant(tensor) if tensor.name else None
            self._known[id(tensor)] = _limits(self._edit.dtype(tensor)) if value is None else _extremes(value)
        return self._known[id(tensor)]

    def _written(self, node: gs.Node, index: int) -> Interval | None:
        tensor = node.outputs[index]
        dtype = self._edit.dtype(tensor)
        if dtype != np.int64:  # narrow arithmetic wraps around, so that only its type tells
            return _limits(dtype)
        found = self._computed(node, index) if is_op(node, node.op) else None
        return found if found is not None and INT64[0] <= found[0] and found[1] <= INT64[1] else None

    def _computed(self, node: gs.Node, index: int) -> Interval | None:
        counted = _COUNTED.get(node.op)
        if counted is not None:
            return counted(node, index, self._edit)
        if is_op(node, "Cast"):
            return self.of(node.inputs[0])
        if is_op(node, "ConstantOfShape"):
            value = attribute(node, "value", None)
            return _extremes(np.asarray(value.values)) if isinstance(value, gs.Constant) else None
        if node.op in MOVES:
            return _hull([self.of(node.inputs[i]) for i in MOVES[node.op]])
        if is_op(node, "Concat"):
            return _hull([self.of(tensor) for tensor in node.inputs])
        arithmetic = _ARITHMETIC.get(node.op)
        if arithmetic is None:
            return None
        operands = [self.of(tensor) for tensor in node.inputs if tensor.name]
        known = [operand for operand in operands if operand is not None]
        return arithmetic(node, known) if known and len(known) == len(operands) else None


def fits(interval: Interval | None, into: Interval = INT32) -> bool:
    """Whether an interval is known and lies within `into`."""
    return interval is not None and into[0] <= interval[0] and interval[1] <= into[1]


def _limits(dtype: np.dtype[Any] | None) -> Interval | None:
    if dtype is None or dtype == np.int64 or dtype.kind not in "biu":
        return None
    return (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


def _extremes(value: np.ndarray) -> Interval | None:
    if value.dtype.kind not in "biu":
        return None
    return (int(value.min()), int(value.max())) if value.size else (0, 0)


def _hull(parts: Sequence[Interval | None]) -> Interval | None:
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    return min(low for low, _ in known), max(high for _, high in known)


# --- operators that count: their outputs are sizes, or places within a size ---------------------------------------


def _sizes(node: gs.Node, _: int, edit: Editor) -> Interval | None:
    shape = edit.static_shape(node.inputs[0])
    if shape is None:
        return None
    return (math.prod(shape),) * 2 if is_op(node, "Size") else (min(shape, default=0), max(shape, default=0))


def _places(node: gs.Node, index: int, edit: Editor) -> Interval | None:
    """Return the places along the axis of an ArgMax or TopK, or along any axis of what NonZero reads."""
    shape = edit.shape(node.inputs[0])
    if is_op(node, "NonZero") and (shape is None or not all(isinstance(size, int) for size in shape)):
        return 0, INT64[1]
    if shape is None or (is_op(node, "TopK") and index != 1):
        return None
    axis = attribute(node, "axis", -1 if is_op(node, "TopK") else 0)
    if is_op(node, "NonZero"):
        sizes = shape
    elif -len(shape) <= axis < len(shape):
        sizes = [shape[axis]]
    else:
        return None
    known = [size for size in sizes if isinstance(size, int) and size >= 0]
    return (0, max([0, *(size - 1 for size in known)])) if len(known) == len(sizes) else None


def _selected(node: gs.Node, _: int, edit: Editor) -> Interval | None:
    """Return the largest of the three indices that NonMaxSuppression gives: of a batch, a class, a box."""
    scores = edit.static_shape(node.inputs[1])
    return None if scores is None or len(scores) != 3 else (0, max([0, *(size - 1 for size in scores)]))


_COUNTED: dict[str, Callable[[gs.Node, int, Editor], Interval | None]] = {
    "Shape": _sizes,
    "Size": _sizes,
    "ArgMax": _places,
    "ArgMin": _places,
    "TopK": _places,
    "NonZero": _places,
    "NonMaxSuppression": _selected,
}

# --- arithmetic ---------------------------------------------------------------------------------------------------


def _corners(operation: Callable[[int, int], int]) -> Callable[[gs.Node, list[Interval]], Interval | None]:
    """Make an interval operation of one that has its extremes at the ends of both operands."""

    def apply(_: gs.Node, operands: list[Interval]) -> Interval | None:
        if len(operands) != 2:
            return None
        values = [operation(a, b) for a in operands[0] for b in operands[1]]
        return min(values), max(values)

    return apply


def _quotient(_: gs.Node, operands: list[Interval]) -> Interval | None:
    (low, high), divisor = operands
    if divisor[0] <= 0 <= divisor[1]:
        return None
    largest = max(abs(low), abs(high))
    return (0, high // divisor[0]) if low >= 0 and divisor[0] > 0 else (-largest, largest)


def _remainder(node: gs.Node, operands: list[Interval]) -> Interval | None:
    low, high = operands[1]
    if low <= 0 <= high:
        return None
    largest = max(abs(low), abs(high)) - 1
    return (0, largest) if low > 0 and not attribute(node, "fmod", 0) else (-largest, largest)


def _range(_: gs.Node, operands: list[Interval]) -> Interval | None:
    start, limit, _step = operands
    return min(start[0], limit[0]), max(start[1], limit[1])


def _clip(node: gs.Node, operands: list[Interval]) -> Interval | None:
    """Return min(max(x, low), high); a bound that is left out, or put before the one given, is none."""
    (low, high), *given = operands
    omitted = [optional(node, index) is None for index in (1, 2)]
    if not omitted[0]:
        least = given.pop(0)
        low, high = max(low, least[0]), max(high, least[1])
    if not omitted[1]:
        most = given.pop(0)
        low, high = min(low, most[0]), min(high, most[1])
    return low, high


def _absolute(_: gs.Node, operands: list[Interval]) -> Interval | None:
    low, high = operands[0]
    return (0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))


_ARITHMETIC: dict[str, Callable[[gs.Node, list[Interval]], Interval | None]] = {
    "Add": _corners(lambda a, b: a + b),
    "Sub": _corners(lambda a, b: a - b),
    "Mul": _corners(lambda a, b: a * b),
    "Div": _quotient,
    "Mod": _remainder,
    "Neg": lambda _, operands: (-operands[0][1], -operands[0][0]),
    "Abs": _absolute,
    "Min": lambda _, operands: (min(low for low, _ in operands), min(high for _, high in operands)),
    "Max": lambda _, operands: (max(low for low, _ in operands), max(high for _, high in operands)),
    "Clip": _clip,
    "Range": _range,
}
