"""Lower a Clip that only cuts off what is negative to Relu, and drop one that cuts off nothing.

    Clip(x, min=0)     ->  Relu(x)
    Clip(x)            ->  x
    Clip(x, 0, 6)      stays: compilers know it as Relu6

Exporters write torch.clamp(min=0) as such a Clip; a compiler fuses a Relu into the Conv before it, a Clip often not.
NaN stays NaN and -0 stays -0 in ONNX Runtime, before and after. One limit: by the specification a bound that is left
out is the largest finite number, so Clip turns Inf into that, where Relu lets Inf through. Between an input and an
output of the model, one that cuts off nothing becomes an Identity.

It does not fire when
1. a bound is not constant (an initializer that a caller may override is not)
2. it has a lower bound other than 0, or an upper bound. The largest finite number counts as one: whoever wrote it
   down meant Inf to end there (integers have no Inf, so there it is none)
3. the elements are of a type for which this operator set has no Relu (integers below 14), or ONNX Runtime has none
   (int16, int64), or nothing tells their type
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import constant
from graphsurgery.operators.operands import FLOATS
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class LowerClip(NodePass):
    """It has no options."""

    name = "lower-clip"
    effect = "exact"
    matches = ("Clip",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        low, high = _bound(node, "min", 1), _bound(node, "max", 2)
        if low is None or high is None:
            raise Refuse("a bound is not constant")
        dtype = edit.dtype(node.inputs[0])
        if dtype is None:
            raise Refuse("nothing tells the type of its elements")
        lowest, largest = _open_ends(dtype)
        if not high >= largest:  # NaN too
            raise Refuse(f"its upper bound is {high:g}")
        if low <= lowest:
            edit.bypass(node, node.inputs[0])
            return
        if low != 0:
            raise Refuse(f"its lower bound is {low:g}")
        if dtype.name not in (*FLOATS, *(("int8", "int32") if edit.opset >= 14 else ())):
            raise Refuse(f"there is no Relu of {dtype.name} in operator set {edit.opset} of ONNX Runtime")
        edit.replace(node, "Relu", [node.inputs[0]])


def _bound(node: gs.Node, name: str, index: int) -> float | None:
    """Return the bound, infinite where it is left out, None where it is not one constant number."""
    if name in node.attrs:
        return float(node.attrs[name])
    if len(node.inputs) <= index or not node.inputs[index].name:
        return -np.inf if name == "min" else np.inf
    value = constant(node.inputs[index])
    if value is None or value.size != 1:
        return None
    number = value.ravel()[0]
    return int(number) if value.dtype.kind in "iu" else float(number)


def _open_ends(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the bounds that cut off nothing."""
    if dtype.kind not in "iu":
        return -np.inf, np.inf
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)
