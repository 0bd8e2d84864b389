"""Let a Gather of one column pick a row of the transposed tensor instead, for accelerators that gather rows only.

    boxes [N, 4] -> Gather(2, axis 1)                          ->  [N]
    boxes [N, 4] -> Transpose [4, N] -> Gather(2, axis 0)      ->  [N]

This is how boxes[:, 2] comes out of PyTorch's exporter, and what Huawei's recipe for Mask R-CNN on Ascend makes of it.
Columns of one tensor share one Transpose, one that is there already included. `lower-gather` makes a Slice and a
Squeeze of the same node, for accelerators that gather nothing; take one of the two.

It does not fire when
1. the index is no scalar, or nothing tells: several columns would need a Transpose behind the Gather, too
2. the rank of its input is not known
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, consumers, is_op
from graphsurgery.operators.requirements import require_axes, require_shape
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class LowerColumnGather(NodePass):
    """`axes` lists the axes whose Gathers change, -1 for the last one; those along the first are what is wanted."""

    name = "lower-column-gather"
    effect = "exact"
    matches = ("Gather",)

    axes: tuple[int, ...] = (-1,)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        data, index = node.inputs
        written = int(attribute(node, "axis", 0))
        if written == 0:
            return
        rank = len(require_shape(data, edit))
        (axis,) = require_axes([written], rank)
        if axis == 0 or not {axis, axis - rank} & set(self.axes):
            return
        shape = edit.shape(index)
        if shape != []:
            raise Refuse(f"its index has {'an unknown shape' if shape is None else f'the shape {shape}'}, is no scalar")
        perm = [axis, *(other for other in range(rank) if other != axis)]
        rows = _transposed(data, perm, edit)
        edit.replace(node, "Gather", [rows, index], {"axis": 0})


def _transposed(data: gs.Tensor, perm: Sequence[int], edit: Editor) -> gs.Tensor:
    """Return `data` with its axes in the order `perm`, from a Transpose of this graph if there is one."""
    for reader in consumers(data):
        if is_op(reader, "Transpose") and any(reader is node for node in edit.graph.nodes):
            reverse = list(range(len(perm)))[::-1]
            if list(attribute(reader, "perm", reverse)) == list(perm):
                return reader.outputs[0]
    return edit.emit("Transpose", [data], {"perm": list(perm)}, hint=f"{data.name}_transposed")
