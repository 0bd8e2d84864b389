"""Turn a DepthToSpace into Reshape, Transpose and Reshape, for compilers that have none.

    x [N, b*b*C, H, W] -> DepthToSpace(b, DCR) -> [N, C, H*b, W*b]
    x -> Reshape [0, b, b, C, H, W] -> Transpose [0, 3, 4, 1, 5, 2] -> Reshape [0, C, H*b, W*b]      DCR
    x -> Reshape [0, C, b, b, H, W] -> Transpose [0, 1, 4, 2, 5, 3] -> Reshape [0, C, H*b, W*b]      CRD

The formula is the specification's, and only moves elements: the same bits. The batch may be of any size.

It does not fire when
1. the channels, the height or the width are not known, or 0
2. the channels can't be divided by the square of the block, or its mode is another one
3. the operator set is below 5, where Reshape had no such input
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.requirements import require_image
from graphsurgery.operators.slices import rearrange
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerDepthtospace(NodePass):
    name = "lower-depthtospace"
    effect = "exact"
    matches = ("DepthToSpace",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        block, mode = int(attribute(node, "blocksize", 0)), attribute(node, "mode", "DCR")
        channels, height, width = require_image(node.inputs[0], edit)
        if block < 1 or channels % block**2 or mode not in ("DCR", "CRD"):
            raise Refuse(f"{channels} channels can't be laid out in blocks of {block} by {block}, mode {mode}")
        left = channels // block**2
        depth = [block, block, left] if mode == "DCR" else [left, block, block]
        perm = [0, 3, 4, 1, 5, 2] if mode == "DCR" else [0, 1, 4, 2, 5, 3]
        rearrange(node, [*depth, height, width], perm, [left, height * block, width * block], edit)
