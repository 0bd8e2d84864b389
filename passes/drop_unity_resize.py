"""Drop a Resize or an Upsample that changes no size, which accelerators that refuse or copy it have no use for.

    y = Resize(x, scales [1, 1, 1, 1])              ->  x
    y = Resize(x, sizes = the shape of x)           ->  x

Exporters write one wherever a feature map is brought to the size of another that has that size already: heads that
align pyramid levels, interpolate(size=...) at the training resolution. With a factor of 1, output i comes from
position i of the input in every coordinate mode but one: (i + 0.5) / 1 - 0.5, i / 1 and i (n - 1) / (n - 1) are i.
So nearest takes element i however it rounds, and linear and cubic give it the weight 1. Where both ends keep their
names, such as an input and an output of the model, an Identity takes its place.

It does not fire when
1. it resizes: a factor is not 1
2. its scales or sizes are not constant, or sizes are given and the size before is not known
3. it crops (tf_crop_and_resize), or it keeps the aspect ratio of sizes (keep_aspect_ratio_policy)
4. it samples half a pixel further (tf_half_pixel_for_nn), unless it is nearest and rounds that down
5. it smooths (antialias)
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.resize import coordinates, factors, mode, rounding, shown
from graphsurgery.rewrite import Editor, NodePass, Refuse


class DropUnityResize(NodePass):
    name = "drop-unity-resize"
    effect = "exact"
    matches = ("Resize", "Upsample")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if attribute(node, "antialias", 0):
            raise Refuse("it smooths (antialias)")
        rounds_down = mode(node) == "nearest" and rounding(node, edit) in ("floor", "round_prefer_floor")
        if coordinates(node, edit) == "tf_half_pixel_for_nn" and not rounds_down:
            raise Refuse("it samples half a pixel further (tf_half_pixel_for_nn)")
        grown = factors(node, edit)
        if any(factor != 1 for factor in grown):
            raise Refuse(f"it resizes by {shown(grown)}")
        edit.bypass(node, node.inputs[0])
