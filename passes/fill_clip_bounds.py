"""Write out a bound of Clip that is left out, for compilers that read both and do not know the defaults.

    Clip(x, min)               ->  Clip(x, min, 3.4028235e38)
    Clip(x) of int8            ->  Clip(x, -128, 127)
    Clip(x, min=0)             ->  Clip(x, min=0, max=3.4028235e38)    (attributes, below operator set 11)

The specification of Clip: the bounds "default to numeric_limits::lowest() and numeric_limits::max()", so the values
written are the lowest and the largest finite number of the type, and ONNX Runtime gives the same bits for every input,
Inf (which becomes that number, before and after) and NaN (which stays) included. ONNX's reference evaluator lets Inf
through where a bound is left out, and so differs for Inf.

It does not fire when
1. nothing tells the type of the elements, which the bounds must have
2. the elements are bfloat16 or another type for which numpy has no limits
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.operators.operands import optional
from graphsurgery.rewrite import Editor, NodePass, Refuse

# Below operator set 11 the defaults are float32's, whatever the elements are.
_FLOAT32 = float(np.finfo(np.float32).max)


class FillClipBounds(NodePass):
    name = "fill-clip-bounds"
    effect = "exact"
    matches = ("Clip",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if edit.opset < 11:
            for name, default in (("min", -_FLOAT32), ("max", _FLOAT32)):
                if name not in node.attrs:
                    edit.set_attribute(node, name, default)
            return
        missing = [index for index in (1, 2) if optional(node, index) is None]
        if not missing:
            return
        dtype = edit.dtype(node.inputs[0])
        if dtype is None:
            raise Refuse("nothing tells the type of its elements")
        if dtype.kind not in "fiu":
            raise Refuse(f"its elements are {dtype.name}, for which numpy has no limits")
        limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        for index in missing:
            name, bound = ("min", limits.min) if index == 1 else ("max", limits.max)
            edit.set_input(node, index, edit.constant(f"{node.outputs[0].name}_{name}", np.array(bound, dtype)))
