"""Lower Swish (operator set 24) to Sigmoid and Mul, which every compiler has known for longer.

    Swish(x)            ->  x * Sigmoid(x)
    Swish(x, alpha)     ->  x * Sigmoid(alpha * x)

That is the body which the specification gives for Swish, so the result is equal up to rounding.

It does not fire when
1. alpha is not 1, and nothing tells the type of the elements or they are bfloat16: alpha must be of that type
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.requirements import require_dtype
from graphsurgery.rewrite import Editor, NodePass


class LowerSilu(NodePass):
    name = "lower-silu"
    effect = "exact"
    matches = ("Swish",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        x, hint, alpha = node.inputs[0], node.outputs[0].name, attribute(node, "alpha", 1.0)
        scaled = x
        if alpha != 1:
            dtype = require_dtype(x, edit)
            factor = edit.constant(f"{hint}_alpha", np.array(alpha, dtype))
            scaled = edit.emit("Mul", [x, factor], hint=f"{hint}_scaled")
        edit.replace(node, "Mul", [x, edit.emit("Sigmoid", [scaled], hint=f"{hint}_gate")])
