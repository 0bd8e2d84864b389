"""Conditions that ask whether a tensor is empty, as in `if boxes.numel() == 0`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs
from onnx import TensorProto

from graphsurgery.graph import attribute, is_op, producer
from graphsurgery.operators.axes import integers
from graphsurgery.operators.operands import scalar
from graphsurgery.operators.static_shapes import written_sizes
from graphsurgery.rewrite import Editor

# For a count on the left: the number on the right with which it tells 0 from all others, and what it says of 0.
_TESTS = {
    "Equal": (0, True),
    "Less": (1, True),
    "LessOrEqual": (0, True),
    "Greater": (0, False),
    "GreaterOrEqual": (1, False),
}
_MIRRORED = {
    "Equal": "Equal",
    "Less": "Greater",
    "LessOrEqual": "GreaterOrEqual",
    "Greater": "Less",
    "GreaterOrEqual": "LessOrEqual",
}
_KEEPS_ONE_NUMBER = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")
# Narrower integers wrap around: 256 becomes 0.
_HOLDS_ANY_COUNT = (TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT, TensorProto.DOUBLE)


@dataclass(frozen=True)
class Emptiness:
    """The condition is `when` where the size of that name is 0, and else the opposite."""

    size: str
    when: bool


def emptiness(condition: gs.Tensor, edit: Editor) -> Emptiness | None:
    """Return what `condition`, one bool, says of a size; None where it does not tell whether one size is 0."""
    node = producer(condition)
    if node is None:
        return None
    if is_op(node, "Not"):
        inner = emptiness(node.inputs[0], edit)
        return None if inner is None else Emptiness(inner.size, not inner.when)
    if is_op(node, *_TESTS):
        left, right = node.inputs
        number, count, test = scalar(right), left, node.op
        if number is None:
            number, count, test = scalar(left), right, _MIRRORED[node.op]
        size = _zero_with(count, edit) if number == _TESTS[test][0] else None
        return None if size is None else Emptiness(size, _TESTS[test][1])
    if is_op(node, *_KEEPS_ONE_NUMBER):
        size = _zero_with(node.inputs[0], edit) if is_op(node, "Cast") else None  # bool(count)
        return emptiness(node.inputs[0], edit) if size is None else Emptiness(size, False)
    return None


def _zero_with(count: gs.Tensor, edit: Editor) -> str | None:
    """Return the name of the size that is 0 where `count` is, and only there."""
    factors = _factors(count, edit)
    unknown = {size for size in factors or [None] if not isinstance(size, int) or size < 1}
    (size, *others) = unknown or {None}
    return size if isinstance(size, str) and not others else None


def _factors(count: gs.Tensor, edit: Editor) -> Sequence[int | str | None] | None:
    """Return the sizes that `count`, one number, is the product of; None where it is something else."""
    node = producer(count)
    if node is None:
        return None
    if is_op(node, "Size"):
        return edit.shape(node.inputs[0])
    if is_op(node, *_KEEPS_ONE_NUMBER):
        wraps = is_op(node, "Cast") and attribute(node, "to", 0) not in _HOLDS_ANY_COUNT
        return None if wraps else _factors(node.inputs[0], edit)
    if is_op(node, "ReduceProd"):
        axes = integers(node, "axes", 1)
        reduces = axes in ([0], [-1]) or (axes == [] and not attribute(node, "noop_with_empty_axes", 0))
        sizes = written_sizes(producer(node.inputs[0]), edit) if reduces else None
        return None if sizes is None else list(sizes.ravel())
    sizes = written_sizes(node, edit)
    return list(sizes.ravel()) if sizes is not None and sizes.size == 1 else None
