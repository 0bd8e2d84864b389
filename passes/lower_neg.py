"""Lower Neg to a Mul by -1, for toolchains that have none, such as Rockchip's.

    Neg(x)  ->  Mul(x, -1)

Both flip the sign alone, so the results are the same bits, zeros, infinities and the lowest integer included.

It does not fire when
1. the type of the elements is not known, or is none that Mul takes
2. the operator set is below 7, where Mul doesn't broadcast by itself
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.operators.requirements import require_broadcasting, require_dtype
from graphsurgery.rewrite import Editor, NodePass

_NUMBERS = ("float32", "float16", "float64", "int32", "int64")  # what ONNX Runtime multiplies, and Neg takes


class LowerNeg(NodePass):
    name = "lower-neg"
    effect = "exact"
    matches = ("Neg",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        require_broadcasting(edit)
        dtype = require_dtype(node.inputs[0], edit, _NUMBERS)
        minus = edit.constant(f"{node.outputs[0].name}_minus", np.array(-1, dtype))
        edit.replace(node, "Mul", [node.inputs[0], minus])
