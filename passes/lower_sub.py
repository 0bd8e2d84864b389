"""Lower Sub to an Add of the negative, for accelerators that add any two tensors and subtract few, or none.

    Sub(x, constant)  ->  Add(x, -constant)
    Sub(x, y)         ->  Add(x, Mul(y, -1))

By IEEE 754 a difference is the sum with the negative, and -1 times a number flips its sign alone, so the results are
the same bits; integers wrap around either way.

It does not fire when
1. the type of the elements is not known, or is none that ONNX Runtime multiplies and adds, or has no negative numbers
2. the operator set is below 7, where Add doesn't broadcast by itself
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import constant
from graphsurgery.operators.requirements import require_broadcasting, require_dtype
from graphsurgery.rewrite import Editor, NodePass

_NUMBERS = ("float32", "float16", "float64", "int32", "int64")


class LowerSub(NodePass):
    name = "lower-sub"
    effect = "exact"
    matches = ("Sub",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        require_broadcasting(edit)
        left, right = node.inputs
        dtype = require_dtype(right if edit.dtype(left) is None else left, edit, _NUMBERS)
        value, hint = constant(right), f"{node.outputs[0].name}_minus"
        if value is not None:
            negative: gs.Tensor = edit.constant(hint, -value)
        else:
            minus_one = edit.constant(f"{hint}_one", np.array(-1, dtype))
            negative = edit.emit("Mul", [right, minus_one], hint=hint)
        edit.replace(node, "Add", [left, negative])
