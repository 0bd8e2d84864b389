"""Let a TopK work along another axis, between Transposes, for accelerators that sort along one axis only.

    TopK(x, k, axis -1)  ->  values, indices = TopK(Transpose(x), k, axis -2), and a Transpose behind each

All exchange the two axes; TIDL, for one, takes a TopK along the height. Each row is sorted as before, so the results
are the same bits.

It does not fire when
1. it works along the axis `to` already
2. nothing tells the rank of its input, or that has no axis `to`
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.axes import normalised
from graphsurgery.operators.requirements import require_shape
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class MoveTopkAxis(NodePass):
    """`to` is the axis that it shall work along."""

    name = "move-topk-axis"
    effect = "exact"
    matches = ("TopK",)

    to: int = -2

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        rank = len(require_shape(node.inputs[0], edit))
        here, there = (normalised([axis], rank) for axis in (int(attribute(node, "axis", -1)), self.to))
        if here is None or there is None:
            raise Refuse(f"of {rank} axes there is none to exchange with {self.to}")
        if here == there:
            return
        perm = list(range(rank))
        perm[here[0]], perm[there[0]] = there[0], here[0]
        hint, exchange = node.outputs[0].name or f"{node.outputs[1].name}_of", {"perm": perm}
        turned = edit.emit("Transpose", [node.inputs[0]], exchange, hint=f"{hint}_turned")
        attrs = {**node.attrs, "axis": there[0]}
        found = edit.emit("TopK", [turned, *node.inputs[1:]], attrs, hint=f"{hint}_found", outputs=2)
        written = list(node.outputs)
        for old, new in zip(written, found.inputs[0].outputs, strict=False):
            if old.name:
                edit.emit("Transpose", [new], exchange, hint=old.name, writes=old)
