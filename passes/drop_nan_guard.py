"""Drop the guard against NaN behind a Softmax that never is NaN, for compilers without IsNaN.

    s = Softmax(x), Where(IsNaN(s), 0, s)  ->  s

PyTorch's exporters put it behind attention with a mask: where a mask of -inf covers a whole row, the Softmax of the row
is NaN, and 0 is meant. No row is, if all numbers of x are finite; or if those that are not come from constants, such as
a causal mask, that leave one in each row. Both are proven, `operators/float_ranges.py` says of what.

One limit: what a layer writes is taken to be finite and no NaN, and below 2^100 in size, 2^13 in float16. Where it is
not, the guard wrote 0 for the row and the Softmax hands on the NaN.

It does not fire when
1. nothing tells that the mask is finite: it is an input of the model, or what a sum overflows to, such as two masks of
   the type's lowest number
2. a row of a constant mask is -inf throughout
3. what stands in place of NaN is not 0, or has more dimensions than the Softmax
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant, is_op, producer
from graphsurgery.operators.float_ranges import FloatRange, FloatRanges, combined, is_finite
from graphsurgery.operators.operands import FLOATS
from graphsurgery.operators.pattern import Pattern
from graphsurgery.rewrite import Editor, NodePass, Refuse

_DEPTH = 6  # sums of a score with a mask: one or two


class DropNanGuard(NodePass):
    name = "drop-nan-guard"
    effect = "exact"
    pattern = Pattern(
        """
        s = Softmax(x, ...)
        Where(IsNaN(s), zero, s)
        """
    )
    matches = ("Where",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        match = self.pattern.match(node, edit)
        if match is None or match.last is not node:
            return
        zero, softmax = constant(match["zero"]), match["s"]
        if zero is None or np.any(zero):
            raise Refuse("what it writes in place of NaN is not 0")
        shape = edit.shape(softmax)
        sizes = None if shape is None else [1] * zero.ndim if zero.size == 1 else shape[len(shape) - zero.ndim :]
        if shape is None or zero.ndim > len(shape) or list(zero.shape) != sizes:
            raise Refuse(f"a zero of shape {list(zero.shape)} may be larger than what the Softmax writes")
        made = next(each for each in match.nodes if is_op(each, "Softmax"))
        axis = attribute(made, "axis", -1 if edit.opset >= 13 else 1) % len(shape)
        _require_finite_rows(match["x"], axis, len(shape), edit)
        edit.bypass(node, softmax)


def _require_finite_rows(scores: gs.Tensor, axis: int, rank: int, edit: Editor) -> None:
    """Refuse where nothing tells that `scores` have a finite number in each row along `axis`, and none is +inf."""
    dtype = edit.dtype(scores)
    if dtype is None or dtype.name not in FLOATS:
        raise Refuse(f"its elements are {dtype or 'of unknown type'}, not {', '.join(FLOATS[:-1])} or {FLOATS[-1]}")
    found, kept = _unmasked(scores, dtype, FloatRanges(edit))
    if not is_finite(found):
        raise Refuse("a sum that it is computed from may overflow to an infinity")
    if not kept.all() and edit.opset < 13 and axis != rank - 1:
        raise Refuse(f"its rows are all axes from {axis} on, and a mask holds -inf")
    if not kept.reshape([1] * (rank - kept.ndim) + list(kept.shape)).any(axis).all():
        raise Refuse("a row of its mask is -inf throughout")


def _unmasked(
    tensor: gs.Tensor, dtype: np.dtype[Any], ranges: FloatRanges, depth: int = 0
) -> tuple[FloatRange | None, np.ndarray]:
    """Return the range of the numbers that no constant masks with -inf, and which these are; that may broadcast."""
    everywhere, value, node = np.array(True), constant(tensor), producer(tensor)
    if value is not None and np.isneginf(value).any():
        if not (np.isfinite(value) | np.isneginf(value)).all():
            raise Refuse(f"'{tensor.name}', which it is computed from, holds +inf or NaN")
        finite = value[np.isfinite(value)]
        return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0), np.isfinite(value)
    if node is not None and is_op(node, "Add") and depth < _DEPTH:
        (one, kept), (other, also) = (_unmasked(each, dtype, ranges, depth + 1) for each in node.inputs)
        return None if one is None or other is None else combined("Add", one, other, dtype), kept & also
    condition = constant(node.inputs[0]) if node is not None and is_op(node, "Where") and depth < _DEPTH else None
    if node is not None and condition is not None:
        for picked, hidden, kept in ((1, 2, condition), (2, 1, ~condition)):
            masking = constant(node.inputs[hidden])
            if masking is not None and np.isneginf(masking).all():
                found, also = _unmasked(node.inputs[picked], dtype, ranges, depth + 1)
                return found, kept & also
    found = ranges.of(tensor)
    if not is_finite(found):
        what = "may be infinite" if found is not None else "is not known to be finite"
        raise Refuse(f"'{tensor.name}', which it is computed from, {what}")
    return found, everywhere
