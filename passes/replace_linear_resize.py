"""Make a linear Resize a nearest one, for accelerators that interpolate slowly, wrongly or not at all.

    Resize(x, linear, half_pixel)  ->  Resize(x, nearest, asymmetric, floor)

The output has the same size, but its elements become copies of inputs: approximate. On Qualcomm's HTP nearest with
`ceil` is refused and nearest with align_corners computed wrong, so neither can be asked for. For a whole factor
`coordinates: half_pixel, rounding: round_prefer_floor` gives the same elements as the default: each input as often as
the factor says, centred where linear has it. For other factors it stays centred, and the default leans to the top left.

It does not fire when
1. it is nearest already
2. it is cubic
3. it crops (tf_crop_and_resize), which no other coordinate mode does
4. its operator set is below 11, which knows no other than the default, and another is asked for
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_graphsurgeon as gs

from graphsurgery.operators.resize import coordinates, mode
from graphsurgery.rewrite import Editor, NodePass, Refuse

_KEPT = ("axes", "keep_aspect_ratio_policy", "scales")  # they decide upon the size of the output; the last: Upsample 7


@dataclass(frozen=True)
class ReplaceLinearResize(NodePass):
    """`coordinates` and `rounding` are the new `coordinate_transformation_mode` and `nearest_mode`."""

    name = "replace-linear-resize"
    effect = "approximate"
    matches = ("Resize", "Upsample")

    coordinates: Literal["asymmetric", "half_pixel", "pytorch_half_pixel"] = "asymmetric"
    rounding: Literal["floor", "round_prefer_floor", "round_prefer_ceil"] = "floor"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if mode(node) == "nearest":
            return
        if mode(node) != "linear":
            raise Refuse(f"it is {mode(node)}, not linear")
        if coordinates(node, edit) == "tf_crop_and_resize":
            raise Refuse("it crops as well (tf_crop_and_resize)")
        attrs = {name: value for name, value in node.attrs.items() if name in _KEPT}
        attrs["mode"] = "nearest"
        if edit.opset >= 11:
            attrs |= {"coordinate_transformation_mode": self.coordinates, "nearest_mode": self.rounding}
        elif (self.coordinates, self.rounding) != ("asymmetric", "floor"):
            raise Refuse(f"operator set {edit.opset} knows asymmetric and floor only")
        edit.replace(node, node.op, list(node.inputs), attrs)
