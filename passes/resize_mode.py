"""Write the coordinates and rounding of a nearest Resize in the other of two ways that repeat each element equally.

    asymmetric, floor  <->  half_pixel, round_prefer_floor
    asymmetric, floor  <->  half_pixel, round_prefer_ceil      with rounding: round_prefer_ceil

For whole factors both read output a*q + r (0 <= r < a) from input q: asymmetric at q + r/a, which floor takes to q,
half_pixel at q + (r + 0.5)/a - 0.5, which is never half a pixel away from q, so that either rounding will do. A
compiler that knows one of them gets it; the values are the same bits. All ways that are equal to these are taken, as
lower-nearest-resize lists them.

It does not fire when
1. it interpolates (linear, cubic), or smooths (antialias)
2. its factors are not known, it crops (tf_crop_and_resize), or keeps the aspect ratio of sizes
3. a factor is no whole number
4. its coordinates and rounding don't repeat every element equally often
5. the operator set is below 11, where they could not be said
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.resize import coordinates, factors, mode, repeats, rounding, shown
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class ResizeMode(NodePass):
    """`to` names the coordinates that are wanted, `rounding` how half_pixel rounds then: Huawei's ATC and AXERA's
    compiler take round_prefer_ceil only.
    """

    name = "resize-mode"
    effect = "exact"
    matches = ("Resize",)

    to: Literal["asymmetric", "half_pixel"] = "asymmetric"
    rounding: Literal["round_prefer_floor", "round_prefer_ceil"] = "round_prefer_floor"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if edit.opset < 11:
            raise Refuse(f"Resize says no coordinates in operator set {edit.opset}")
        if mode(node) != "nearest" or attribute(node, "antialias", 0):
            raise Refuse(f"it is {mode(node)}, or smooths (antialias)")
        how, wanted = (coordinates(node, edit), rounding(node, edit)), (self.to, self._rounds)
        if how == wanted:
            return
        grown = factors(node, edit)
        if any(factor.denominator != 1 for factor in grown):
            raise Refuse(f"it resizes by {shown(grown)}, not by whole numbers")
        if not repeats(node, grown, edit):
            raise Refuse(f"{' with '.join(how)} does not repeat each element equally often, or not for sure")
        edit.set_attribute(node, "coordinate_transformation_mode", wanted[0])
        edit.set_attribute(node, "nearest_mode", wanted[1])

    @property
    def _rounds(self) -> str:
        return "floor" if self.to == "asymmetric" else self.rounding
