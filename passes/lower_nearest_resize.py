"""Turn nearest upsampling by whole numbers into a ConvTranspose, for accelerators that lack or miscompute Resize.

    Resize(nearest, scales [1, 1, a, b])  ->  ConvTranspose(kernel a x b, strides a x b, group = channels, all ones)

Furiosa's compiler lists ConvTranspose and no Resize (SDK 0.9); Qualcomm's HTP computes nearest with align_corners
wrong. Kernel and stride are equal, so each output is one input times 1: the same bits (but -0 may become +0), and an
Inf or NaN stays where it is, since nothing is multiplied by 0. All attributes are written out. One limit: onnxruntime
refuses a ConvTranspose of a height or width that turns out to be 0 when run.

Which coordinates and roundings only repeat elements, `operators/resize.py` has in a table.

It does not fire when
1. it interpolates (linear, cubic), or smooths (antialias)
2. its factors are not known, it crops (tf_crop_and_resize), or keeps the aspect ratio of sizes
3. a factor is no whole number, or it resizes the batch or the channels, or the tensor has no height and width
4. all factors are 1: drop-unity-resize does that
5. its coordinates and rounding don't repeat every element equally often; ceil never does
6. the elements are no floating-point numbers, or nothing tells their type
7. the number of channels is not known, or the input is known to have no elements
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.requirements import require_dtype, require_shape
from graphsurgery.operators.resize import coordinates, factors, mode, repeats, rounding, shown
from graphsurgery.operators.windows import windowing
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerNearestResize(NodePass):
    name = "lower-nearest-resize"
    effect = "exact"
    matches = ("Resize", "Upsample")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if mode(node) != "nearest" or attribute(node, "antialias", 0):
            raise Refuse(f"it is {mode(node)}, or smooths (antialias)")
        grown = factors(node, edit)
        if all(factor == 1 for factor in grown):
            raise Refuse("it changes no size; drop-unity-resize drops it")
        if len(grown) != 4 or not grown[0] == grown[1] == 1 or any(factor.denominator != 1 for factor in grown):
            raise Refuse(f"it resizes by {shown(grown)}, not height and width by whole numbers")
        if not repeats(node, grown, edit):
            how = f"{coordinates(node, edit)} with {rounding(node, edit)}"
            raise Refuse(f"{how} does not repeat each element equally often, or not for sure")
        dtype = require_dtype(node.inputs[0], edit)
        _, channels, *sizes = require_shape(node.inputs[0], edit)
        if channels is None:
            raise Refuse("its number of channels is not known")
        if 0 in (channels, *sizes):
            raise Refuse("its input has no elements")
        kernel = [int(factor) for factor in grown[2:]]
        ones = edit.constant(f"{node.outputs[0].name}_ones", np.ones((channels, 1, *kernel), dtype))
        attrs = windowing(kernel, kernel, group=channels) | {"output_padding": [0, 0]}
        edit.replace(node, "ConvTranspose", [node.inputs[0], ones], attrs)
