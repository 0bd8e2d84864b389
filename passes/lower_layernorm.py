"""Unfold LayerNormalization into the operators that it stands for, for compilers that lack the layer.

    y = LayerNormalization(x, scale, bias)  ->  d = Sub(x, ReduceMean(x))        over the axes from `axis` on
                                                n = Div(d, Sqrt(Add(ReduceMean(Mul(d, d)), epsilon)))
                                                y = Add(Mul(n, scale), bias)
    of float16                              ->  the same between a Cast to float32 and a Cast back, before the Mul

VitisAI leaves the layer to the CPU by design; its parts can run on the NPU, or fuse otherwise there. The Casts are
what the specification demands of `stash_type` 1: a square overflows in float16. `fuse-layernorm` is the way back.

It does not fire when
1. the mean or the inverse of the standard deviation, its other outputs, are read
2. the statistics have another type than float32 (`stash_type`)
3. the elements are neither float32 nor float16, or nothing tells
4. `axis` counts from the front and nothing tells the rank of the input
"""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.normalizing import normalizing
from graphsurgery.operators.operands import optional
from graphsurgery.operators.requirements import require_dtype, require_shape, require_unread
from graphsurgery.operators.slices import Link, chain
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerLayernorm(NodePass):
    name = "lower-layernorm"
    effect = "exact"
    matches = ("LayerNormalization",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        require_unread(node, edit, "its mean or its inverse standard deviation is")
        stash = attribute(node, "stash_type", 1)
        if stash != onnx.TensorProto.FLOAT:
            raise Refuse(f"its statistics are {onnx.TensorProto.DataType.Name(stash)}, not FLOAT")
        (x, scale), bias = node.inputs[:2], optional(node, 2)
        dtype = require_dtype(x, edit, among=("float32", "float16"))
        axis = int(attribute(node, "axis", -1))
        axes = list(range(axis - len(require_shape(x, edit)) if axis >= 0 else axis, 0))
        centred, links = normalizing(node, dtype, axes, edit)
        links.append(Link("Mul", (scale,), hint="scaled"))
        if bias is not None:
            links.append(Link("Add", (bias,)))
        chain(edit, node, centred, links)
