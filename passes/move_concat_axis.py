"""Let a Concat work along another axis, between Transposes, for accelerators that join tensors along few axes.

    Concat(x, y, axis 0)  ->  Transpose(Concat(Transpose(x), Transpose(y), axis 1))     all exchange the axes 0 and 1

TIDL, for one, joins along the last three axes only. Nothing is computed, so the results are the same bits; where a
Transpose meets another, `merge-transposes` takes both away.

It does not fire when
1. it works along another axis than `axis`
2. nothing tells the rank of its inputs, or that has no axis `to`
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.axes import normalised
from graphsurgery.operators.requirements import require_shape
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class MoveConcatAxis(NodePass):
    """`axis` is the one that it works along, and `to` that which it shall."""

    name = "move-concat-axis"
    effect = "exact"
    matches = ("Concat",)

    axis: int = 0
    to: int = 1

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        rank = len(require_shape(node.inputs[0], edit))
        axes = normalised([self.axis, self.to], rank)
        if normalised([int(attribute(node, "axis", 1))], rank) != normalised([self.axis], rank):
            return
        if axes is None:
            raise Refuse(f"of {rank} axes there are no {self.axis} and {self.to} to exchange")
        perm = list(range(rank))
        perm[axes[0]], perm[axes[1]] = perm[axes[1]], perm[axes[0]]
        hint = node.outputs[0].name
        turned = [edit.emit("Transpose", [read], {"perm": perm}, hint=f"{hint}_turned") for read in node.inputs]
        joined = edit.emit("Concat", turned, {"axis": axes[1]}, hint=f"{hint}_joined")
        edit.replace(node, "Transpose", [joined], {"perm": perm})
