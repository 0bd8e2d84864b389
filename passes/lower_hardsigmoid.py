"""Lower HardSigmoid to Mul, Add and Clip, for compilers that lack it.

    HardSigmoid(x, alpha, beta)  ->  Clip(x * alpha + beta, 0, 1)

That is what the specification says it is, so the result is equal up to rounding; NaN stays NaN.

It does not fire when
1. the elements are no floating-point numbers of NumPy's, or nothing tells
2. the operator set is below 12 and the elements are not float32: onnxruntime has no such Clip
3. it is below 7, where nothing was broadcast
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.requirements import require_broadcasting, require_dtype
from graphsurgery.operators.slices import Link, chain
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerHardsigmoid(NodePass):
    name = "lower-hardsigmoid"
    effect = "exact"
    matches = ("HardSigmoid",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        x, name = node.inputs[0], node.outputs[0].name
        require_broadcasting(edit)
        dtype = require_dtype(x, edit)
        if edit.opset < 12 and dtype != np.float32:
            raise Refuse(f"there is no Clip of {dtype} in operator set {edit.opset}")

        def number(hint: str, value: float) -> gs.Constant:
            return edit.constant(f"{name}_{hint}", np.array(value, dtype))

        links = [
            Link("Mul", (number("alpha", float(attribute(node, "alpha", 0.2))),), hint="scaled"),
            Link("Add", (number("beta", float(attribute(node, "beta", 0.5))),), hint="shifted"),
            Link("Clip", attrs={"min": 0.0, "max": 1.0})
            if edit.opset < 11
            else Link("Clip", (number("low", 0), number("high", 1))),
        ]
        chain(edit, node, x, links)
