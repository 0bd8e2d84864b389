"""Turn a ReduceSum into a product with ones or a pool, which accelerators compute where they have no reduction.

    ReduceSum(x [N, C, H, W], axes [1])     ->  Conv(x, ones [1, C, 1, 1])
    ReduceSum(x [.., n], axes [-1])         ->  MatMul(x, ones [n, 1])
    ReduceSum(x [N, C, H, W], axes [2, 3])  ->  Mul(GlobalAveragePool(x), H * W)

With keepdims 0 the axes of size 1 are taken out behind it. Equal to rounding; times 1 each number stays what it is.

It does not fire when
1. its axes are not constant, or none of the three kinds above
2. the rank, or the size of what it sums over, is not known, or 0
3. the elements are no floating-point numbers, or nothing tells their type; of float64 ONNX Runtime has no Conv
   and no pool
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.operators.axes import keeps_dims
from graphsurgery.operators.operands import CONV_FLOATS, FLOATS
from graphsurgery.operators.requirements import require_axes, require_dtype, require_integers, require_shape
from graphsurgery.operators.slices import Link, chain, on_axes
from graphsurgery.operators.windows import windowing
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerReduceSum(NodePass):
    name = "lower-reduce-sum"
    effect = "exact"
    matches = ("ReduceSum",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        data, hint = node.inputs[0], node.outputs[0].name
        axes = require_integers(node, "axes", 1, "its axes are")
        shape = require_shape(data, edit)
        axes = sorted(require_axes(axes, len(shape)))
        image = len(shape) == 4
        if not (axes == [len(shape) - 1] and len(shape) > 1) and not (image and axes in ([1], [2, 3])):
            raise Refuse(f"it sums over the axes {axes} of {len(shape)}: not the last, channels, or height and width")
        sizes = [shape[axis] for axis in axes]
        if not all(sizes):
            raise Refuse("the size of what it sums over is not known, or 0")
        if image and 0 in shape:
            raise Refuse("its input has no elements")
        last, count = axes == [len(shape) - 1], math.prod(size or 0 for size in sizes)
        dtype = require_dtype(data, edit, FLOATS if last else CONV_FLOATS)
        if last:
            links = [Link("MatMul", (edit.constant(f"{hint}_ones", np.ones((count, 1), dtype)),), hint="sums")]
        elif axes == [1]:
            ones = edit.constant(f"{hint}_ones", np.ones((1, count, 1, 1), dtype))
            links = [Link("Conv", (ones,), windowing([1, 1], group=1), hint="sums")]
        else:
            area = edit.constant(f"{hint}_area", np.array(count, dtype))
            links = [Link("GlobalAveragePool", hint="means"), Link("Mul", (area,), hint="sums")]
        chain(edit, node, data, links if keeps_dims(node) else [*links, on_axes(edit, "Squeeze", hint, axes)])
