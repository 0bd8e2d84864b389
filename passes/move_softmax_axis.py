"""Let a Softmax work along the last axis, between two Transposes, for accelerators that take no other.

    Softmax(x, axis a)  ->  Transpose(Softmax(Transpose(x), axis -1))     both exchange axis a and the last one

LogSoftmax and Hardmax the same. Each row is computed as before: the same bits up to the order of its sum. The
Transposes meet those of attention blocks, and `merge-transposes` takes both away there.

It does not fire when
1. it works along the last axis already
2. nothing tells the rank of the input
3. the operator set is below 13, where it worked along all axes from `axis` on
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.requirements import require_axes, require_shape
from graphsurgery.operators.slices import Link, chain
from graphsurgery.rewrite import Editor, NodePass, Refuse


class MoveSoftmaxAxis(NodePass):
    name = "move-softmax-axis"
    effect = "exact"
    matches = ("Softmax", "LogSoftmax", "Hardmax")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if edit.opset < 13:
            raise Refuse(f"it works along several axes in operator set {edit.opset}")
        axis = int(attribute(node, "axis", -1))
        if axis == -1:
            return
        rank = len(require_shape(node.inputs[0], edit))
        (axis,) = require_axes([axis], rank)
        if axis == rank - 1:
            return
        perm = list(range(rank))
        perm[axis], perm[-1] = perm[-1], perm[axis]
        exchange = Link("Transpose", attrs={"perm": perm})
        chain(edit, node, node.inputs[0], [exchange, Link(node.op, attrs={"axis": -1}), exchange])
