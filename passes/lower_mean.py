"""Lower Mean, of any number of tensors, to Add and Mul, which every accelerator has.

    Mean(a, b, c)  ->  Mul(Add(Add(a, b), c), 1/3)
    Mean(a)        ->  a

Equal to rounding: ONNX Runtime divides by the number of tensors.

It does not fire when
1. the elements are no floating-point numbers, or nothing tells their type
2. the operator set is below 8, where all tensors have one shape
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.operators.requirements import require_dtype
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerMean(NodePass):
    name = "lower-mean"
    effect = "exact"
    matches = ("Mean",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if edit.opset < 8:
            raise Refuse(f"operator set {edit.opset} doesn't broadcast")
        if len(node.inputs) == 1:
            edit.bypass(node, node.inputs[0])
            return
        dtype, hint = require_dtype(node.inputs[0], edit), node.outputs[0].name
        total, *others = node.inputs
        for term in others:
            total = edit.emit("Add", [total, term], hint=f"{hint}_partial")
        share = edit.constant(f"{hint}_share", np.array(1 / len(node.inputs), dtype))
        edit.replace(node, "Mul", [total, share])
