"""Unfold InstanceNormalization into the operators that it stands for, for compilers that lack the layer.

    y = InstanceNormalization(x, scale, bias)  ->  d = Sub(x, ReduceMean(x))     over height and width
                                                   n = Div(d, Sqrt(Add(ReduceMean(Mul(d, d)), epsilon)))
                                                   y = Add(Mul(n, scale), bias)
    of float16                                 ->  the same between a Cast to float32 and a Cast back

Scale and bias have one value per channel, and are brought to [C, 1, 1]. The Casts keep a square from overflowing.

It does not fire when
1. the elements are no floating-point numbers of NumPy's, or nothing tells
2. nothing tells the rank of the input, or it has no axes behind the channels, or none of its elements
3. the operator set is below 7, where nothing was broadcast
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.operators.channels import as_column
from graphsurgery.operators.normalizing import normalizing
from graphsurgery.operators.requirements import require_broadcasting, require_dtype, require_shape
from graphsurgery.operators.slices import Link, chain
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerInstancenorm(NodePass):
    name = "lower-instancenorm"
    effect = "exact"
    matches = ("InstanceNormalization",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        x, scale, bias = node.inputs
        require_broadcasting(edit)
        dtype = require_dtype(x, edit)
        shape = require_shape(x, edit)
        if len(shape) < 3 or 0 in shape[1:]:
            raise Refuse(f"an input of shape {shape} has no axes behind the channels, or no elements there")
        axes = list(range(2, len(shape)))
        centred, links = normalizing(node, dtype, axes, edit)
        for op, tensor, hint in (("Mul", scale, "scaled"), ("Add", bias, "")):
            links.append(Link(op, (as_column(tensor, len(shape), edit),), hint=hint))
        chain(edit, node, centred, links)
