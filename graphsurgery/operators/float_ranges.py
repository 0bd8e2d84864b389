"""Between which two floating-point numbers the elements of a tensor lie, as far as the operators before it tell.

Constants, integers and operators such as Sigmoid give intervals, and the arithmetic of the tensor's own type carries
them on: what overflows is infinite here too. What a layer writes is taken to be finite and below `LAYER_LIMIT` in size,
which no proof can show of weights and features. An input of the model is anything, so that nothing is told of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant, is_op, producer
from graphsurgery.operators.operands import FLOATS, LAYERS, optional
from graphsurgery.operators.value_ranges import MOVES, Intervals
from graphsurgery.rewrite import Editor

FloatRange = tuple[float, float]  # an end may be infinite: such an element may be there

LAYER_LIMIT = {"float16": 2.0**13, "float32": 2.0**100, "float64": 2.0**100}

_LAYERS = (*LAYERS, "Einsum", "LayerNormalization", "GroupNormalization", "InstanceNormalization", "BatchNormalization")
_BOUNDED = {
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Softmax"), (0.0, 1.0)),
    **dict.fromkeys(("Tanh", "Erf"), (-1.0, 1.0)),
}
_HULLS = ("Concat", "MaxPool", "ReduceMax", "ReduceMin", "TopK")


class FloatRanges:
    """The ranges of the floating-point tensors of a model, by identity; the graphs must be sorted."""

    def __init__(self, edit: Editor) -> None:
        self._edit = edit
        self._integers: Intervals | None = None
        self._known: dict[int, FloatRange | None] = {}

    def of(self, tensor: gs.Tensor) -> FloatRange | None:
        """Return the least and the largest value that an element of `tensor` can have, NaN left aside.

        None where nothing tells, or the elements are of no type in `LAYER_LIMIT`.
        """
        pending = [tensor]
        while pending:  # a network is deeper than Python's stack
            current = pending[-1]
            node = producer(current)
            waiting = [
                each
                for each in (node.inputs if node is not None and not _starts(node) else ())
                if each.name and id(each) not in self._known
            ]
            if id(current) not in self._known and not waiting:
                self._known[id(current)] = self._written(current, node)
            if waiting:
                pending.append(waiting[0])
            else:
                pending.pop()
        return self._known[id(tensor)]

    def _written(self, tensor: gs.Tensor, node: gs.Node | None) -> FloatRange | None:
        dtype = self._edit.dtype(tensor)
        if dtype is not None and dtype.kind in "biu":
            self._integers = self._integers or Intervals(self._edit)
            found = self._integers.of(tensor)
            return None if found is None else (float(found[0]), float(found[1]))
        if dtype is None or dtype.name not in FLOATS:
            return None
        value = constant(tensor)
        if value is not None:
            return None if not value.size or np.isnan(value).any() else (float(value.min()), float(value.max()))
        if node is None or not is_op(node, node.op):
            return None
        return self._computed(node, dtype)

    def _computed(self, node: gs.Node, dtype: np.dtype[Any]) -> FloatRange | None:
        if is_op(node, *_LAYERS):
            return _layer(node, LAYER_LIMIT[dtype.name])
        if node.op in _BOUNDED:
            return _BOUNDED[node.op]
        if node.op in MOVES:
            return _hull([self._known.get(id(node.inputs[index])) for index in MOVES[node.op]])
        operands = [self._known.get(id(tensor)) for tensor in node.inputs if tensor.name]
        if node.op in _HULLS:
            return _hull(operands if node.op == "Concat" else operands[:1])
        known = [operand for operand in operands if operand is not None]
        if not known or len(known) < len(operands):
            return None
        if is_op(node, "Min", "Max"):
            end = min if node.op == "Min" else max
            return end(low for low, _ in known), end(high for _, high in known)
        if is_op(node, "Clip"):
            return _clipped(node, known[0])
        if is_op(node, "Cast", "CastLike"):
            return _ends(dtype, known[0])
        if is_op(node, "Relu"):
            return max(known[0][0], 0.0), max(known[0][1], 0.0)
        if is_op(node, "Neg"):
            return -known[0][1], -known[0][0]
        if is_op(node, "Add", "Sub", "Mul", "Div") and len(known) == 2:
            return combined(node.op, known[0], known[1], dtype)
        if is_op(node, "Pow") and known[-1] == (2.0, 2.0):
            return combined("Mul", known[0], known[0], dtype)
        return None


def is_finite(found: FloatRange | None) -> bool:
    """Whether a range is known and holds no infinity."""
    return found is not None and bool(np.isfinite(found).all())


def combined(op: str, one: FloatRange, other: FloatRange, dtype: np.dtype[Any]) -> FloatRange | None:
    """Return the range of a sum, difference, product or quotient (Add, Sub, Mul, Div) in `dtype`.

    The extremes lie at the ends. None where it may be NaN.
    """
    operation = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[op]
    if op == "Div" and other[0] <= 0 <= other[1]:
        return None
    with np.errstate(all="ignore"):
        values = [float(operation(dtype.type(a), dtype.type(b))) for a in one for b in other]
    return None if np.isnan(values).any() else (min(values), max(values))


def _starts(node: gs.Node) -> bool:
    """Whether what `node` writes is known without what it reads, so that no walk goes on there."""
    return is_op(node, *_LAYERS) or (is_op(node, node.op) and node.op in _BOUNDED)


def _layer(node: gs.Node, most: float) -> FloatRange | None:
    """Return what a layer writes; what is computed and a Gemm adds, such as a mask, may be anything."""
    weights = [value for value in map(constant, node.inputs) if value is not None and value.dtype.kind == "f"]
    added = optional(node, 2) if is_op(node, "Gemm") else None
    told = all(np.isfinite(value).all() for value in weights) and (added is None or constant(added) is not None)
    return (-most, most) if told else None


def _hull(parts: Sequence[FloatRange | None]) -> FloatRange | None:
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    return min(low for low, _ in known), max(high for _, high in known)


def _clipped(node: gs.Node, found: FloatRange) -> FloatRange | None:
    """Return the range of a Clip whose bounds are constant."""
    low, high = found
    for index, name, end in ((1, "min", max), (2, "max", min)):
        given = optional(node, index)
        bound = attribute(node, name, None) if given is None else constant(given)
        if bound is None and given is None:
            continue
        if bound is None or np.size(bound) != 1:
            return None
        limit = float(np.ravel(bound)[0])
        low, high = end(low, limit), end(high, limit)
    return low, high


def _ends(dtype: np.dtype[Any], found: FloatRange) -> FloatRange:
    with np.errstate(over="ignore"):
        low, high = (float(dtype.type(end)) for end in found)
    return low, high
