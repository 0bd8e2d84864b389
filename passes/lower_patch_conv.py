"""Turn a Conv whose windows lie side by side into a 1x1 Conv over blocks, for accelerators with small strides only.

    x [N, C, H*a, W*b] -> Conv(kernel a x b, strides a x b) -> y [N, M, H, W]
    x -> Reshape [0, C, H, a, W, b] -> Transpose [0, 1, 3, 5, 2, 4] -> Reshape [0, C*a*b, H, W] -> Conv(1x1) -> y

It is what the first layer of a vision transformer is, and of some detectors. The multiply-adds stay as many, where
split-conv-stride makes them a multiple; the accelerator must take a Transpose of six dimensions instead. Equal to
rounding: ONNX Runtime sums in another order.

It does not fire when
1. its kernel and its strides are not the same, or are 1
2. it is padded, dilated or of several groups, or its window is not known
3. its weight is not constant, or its elements are no floating-point numbers
4. the channels, the height or the width are not known, or don't divide into windows
5. the operator set is below 5, where Reshape had no such input
"""

from __future__ import annotations

import dataclasses

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.requirements import require_constant, require_dtype, require_image
from graphsurgery.operators.slices import Link, chain, reshaping
from graphsurgery.operators.windows import require_window, windowing
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerPatchConv(NodePass):
    name = "lower-patch-conv"
    effect = "exact"
    matches = ("Conv",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        own = require_window(node, edit)
        if max(own.strides) == 1 or own.kernel != own.strides:
            return
        if own.padded or max(own.dilations) > 1 or int(attribute(node, "group", 1)) > 1:
            raise Refuse("it is padded, dilated or of several groups")
        if edit.opset < 5:
            raise Refuse(f"Reshape has its shape as an attribute in operator set {edit.opset}")
        require_dtype(node.inputs[0], edit)
        weight = require_constant(node.inputs[1], "its weight is")
        channels, height, width = require_image(node.inputs[0], edit)
        (tall, wide), hint = own.kernel, node.outputs[0].name
        if height % tall or width % wide:
            raise Refuse(f"{height} x {width} doesn't divide into windows of {tall} x {wide}")
        rows, columns, depth = height // tall, width // wide, channels * tall * wide
        flat = edit.constant(f"{hint}_weight", weight.reshape(len(weight), depth, 1, 1))
        links = [
            reshaping(edit, f"{hint}_windows", [0, channels, rows, tall, columns, wide]),
            Link("Transpose", attrs={"perm": [0, 1, 3, 5, 2, 4]}),
            dataclasses.replace(reshaping(edit, f"{hint}_blocks", [0, depth, rows, columns]), hint="blocks"),
            Link("Conv", (flat, *node.inputs[2:]), windowing([1, 1], group=1)),
        ]
        chain(edit, node, node.inputs[0], links)
