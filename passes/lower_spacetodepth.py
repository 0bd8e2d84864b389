"""Turn a SpaceToDepth into Reshape, Transpose and Reshape, for compilers that have none.

    x [N, C, H*b, W*b] -> SpaceToDepth(b) -> [N, b*b*C, H, W]
    x -> Reshape [0, C, H, b, W, b] -> Transpose [0, 3, 5, 1, 2, 4] -> Reshape [0, b*b*C, H, W]      DCR
    x -> Reshape [0, C, H, b, W, b] -> Transpose [0, 1, 3, 5, 2, 4] -> Reshape [0, b*b*C, H, W]      CRD

The formula is the specification's, and only moves elements: the same bits. The batch may be of any size.

It does not fire when
1. the channels, the height or the width are not known, or 0
2. the height or the width can't be divided by the block, or its mode (operator set 26 has one) is another
3. the operator set is below 5, where Reshape had no such input
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.requirements import require_image
from graphsurgery.operators.slices import rearrange
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerSpacetodepth(NodePass):
    name = "lower-spacetodepth"
    effect = "exact"
    matches = ("SpaceToDepth",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        block, mode = int(attribute(node, "blocksize", 0)), attribute(node, "mode", "DCR")
        channels, height, width = require_image(node.inputs[0], edit)
        if block < 1 or height % block or width % block or mode not in ("DCR", "CRD"):
            raise Refuse(f"{height} x {width} can't be cut into blocks of {block} by {block}, mode {mode}")
        rows, columns = height // block, width // block
        perm = [0, 3, 5, 1, 2, 4] if mode == "DCR" else [0, 1, 3, 5, 2, 4]
        split, merged = [channels, rows, block, columns, block], [channels * block**2, rows, columns]
        rearrange(node, split, perm, merged, edit)
