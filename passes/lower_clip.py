"""Lower a Clip that only cuts off what is negative to Relu, or any to Max and Min, and drop one that cuts off nothing.

    Clip(x, min=0)     ->  Relu(x)
    Clip(x)            ->  x
    Clip(x, 0, 6)      stays: compilers know it as Relu6
    with max_min       ->  Min(Max(x, 0), 6)

Exporters write torch.clamp(min=0) as such a Clip; a compiler fuses a Relu into the Conv before it, a Clip often not.
NaN stays NaN and -0 stays -0 in ONNX Runtime, before and after. One limit: by the specification a bound that is left
out is the largest finite number, so Clip turns Inf into that, where Relu lets Inf through. Between an input and an
output of the model, one that cuts off nothing becomes an Identity.

It does not fire when
1. a bound is not constant (an initializer that a caller may override is not)
2. it has a lower bound other than 0, or an upper bound, and `max_min` is not set. The largest finite number counts as
   one: whoever wrote it down meant Inf to end there (integers have no Inf, so there it is none)
3. the elements are of a type for which this operator set has no Relu (integers below 14), or ONNX Runtime has none
   (int16, int64), or nothing tells their type
4. the same of Max and Min, which have no small integers, and none at all below operator set 12
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.operators.operands import FLOATS, optional
from graphsurgery.operators.requirements import require_constant
from graphsurgery.operators.slices import Link, chain
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class LowerClip(NodePass):
    """`max_min` makes Max and Min of what is no Relu, for accelerators that have these and no Clip."""

    name = "lower-clip"
    effect = "exact"
    matches = ("Clip",)

    max_min: bool = False

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        low, high = _bound(node, "min", 1), _bound(node, "max", 2)
        dtype = edit.dtype(node.inputs[0])
        if dtype is None:
            raise Refuse("nothing tells the type of its elements")
        lowest, largest = -np.inf, np.inf  # the bounds that cut off nothing
        if dtype.kind in "iu":
            lowest, largest = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        bounds = [("Max", "low", low)] * (low > lowest) + [("Min", "high", high)] * (high < largest)
        is_relu = low == 0 and not high < largest
        if self.max_min and bounds and not is_relu and not np.isnan([low, high]).any():
            return _to_max_and_min(node, bounds, dtype, edit)
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


def _to_max_and_min(node: gs.Node, bounds: list[tuple[str, str, float]], dtype: np.dtype[Any], edit: Editor) -> None:
    """Send what `node` reads through an operator for each of its bounds."""
    if dtype.name not in (*FLOATS, *(("int32", "int64") if edit.opset >= 12 else ())) or edit.opset < 8:
        raise Refuse(f"there is no Max of {dtype.name} in operator set {edit.opset} of ONNX Runtime")
    hint = node.outputs[0].name
    links = [Link(op, (edit.constant(f"{hint}_{name}", np.array(bound, dtype)),)) for op, name, bound in bounds]
    chain(edit, node, node.inputs[0], links)


def _bound(node: gs.Node, name: str, index: int) -> float:
    """Return the bound, infinite where it is left out; raise Refuse where it is not constant."""
    if name in node.attrs:
        return float(node.attrs[name])
    given = optional(node, index)
    if given is None:
        return -np.inf if name == "min" else np.inf
    value = require_constant(given, "a bound is")
    if value.size != 1:
        raise Refuse("a bound is not one number")
    return int(value.item()) if value.dtype.kind in "iu" else float(value.item())
