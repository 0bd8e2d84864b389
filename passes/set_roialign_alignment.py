"""Set whether RoiAlign shifts its boxes by half a pixel, as networks with aligned=True were trained.

    RoiAlign(output_half_pixel)  <->  RoiAlign(half_pixel)

    set-roialign-alignment: {aligned: true}

Up to operator set 15 RoiAlign has no such shift, and exporters write one without it for a network that was trained
with: the file is half a cell of the feature map off. This puts it right, or, the other way, gives an accelerator the
one that it has. A box narrower than a cell is also read as one cell wide without the shift, and as it is with it.

What comes out differs by design: grant it in the recipe, or compare with the network that was trained.

It does not fire when
1. the operator set is below 16, where RoiAlign can't be told to shift
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.rewrite import Editor, NodePass, Refuse

_MODE = "coordinate_transformation_mode"
_SHIFTS = 16  # the operator set in which RoiAlign can, and by default does


@dataclass(frozen=True)
class SetRoialignAlignment(NodePass):
    """`aligned` is torchvision's and detectron2's word for the shift."""

    name = "set-roialign-alignment"
    effect = "approximate"
    matches = ("RoiAlign",)

    aligned: bool

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        wanted = "half_pixel" if self.aligned else "output_half_pixel"
        has = attribute(node, _MODE, "half_pixel") if edit.opset >= _SHIFTS else "output_half_pixel"
        if has == wanted:
            return
        if edit.opset < _SHIFTS:
            raise Refuse(
                f"RoiAlign has no half_pixel in operator set {edit.opset}; raise the operator set to {_SHIFTS} before"
            )
        edit.set_attribute(node, _MODE, wanted)
