"""Give a Resize its factors (`scales`) in place of the size of its output (`sizes`), for compilers that read no sizes.

    Resize(x [1, 8, 20, 30], sizes [1, 8, 40, 60])  ->  Resize(x, scales [1, 1, 2, 2])

torch writes sizes for interpolate(size=...); FINN, for one, reads scales only (Xilinx/finn pull request 371). What a
Resize computes depends on the size before, the size after, and the factor between them. Where float32 holds that
factor exactly (2, 0.5, 1.5, 3.25), scales say all three: floor(size before x factor) is the very size that was asked
for. So every coordinate mode, rounding and antialiasing starts from equal numbers. Axes that are not among `axes`, new
in operator set 18, get the factor 1.

It does not fire when
1. it has scales already
2. its sizes are not constant, or the size before is not known
3. a factor has no exact float32 (7 / 3): its coordinates would shift by a rounding
4. it crops (tf_crop_and_resize): scales are of the window there, sizes are not
5. it keeps the aspect ratio (keep_aspect_ratio_policy), so that its sizes need not be those of the output
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.operators.resize import factors, given
from graphsurgery.rewrite import Editor, NodePass, Refuse

_OF_SIZES = ("axes", "keep_aspect_ratio_policy")


class LowerResizeSizes(NodePass):
    name = "lower-resize-sizes"
    effect = "exact"
    matches = ("Resize",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if given(node, "sizes", edit) is None:
            return
        grown = factors(node, edit)
        rounded = np.array([float(factor) for factor in grown], np.float32)
        for factor, scale in zip(grown, rounded, strict=True):
            if Fraction(float(scale)) != factor:
                raise Refuse(f"float32 does not hold its factor {factor} exactly")
        scales = edit.constant(f"{node.outputs[0].name}_scales", rounded)
        attrs = {name: value for name, value in node.attrs.items() if name not in _OF_SIZES}
        edit.replace(node, "Resize", [*node.inputs[:2], scales], attrs)
