"""Split a Slice over several axes into a chain of Slices of one axis each, for compilers that take one axis only.

    y = Slice(x, axes [1, 2], starts [0, 1], ends [2, 5])  ->  y = Slice(Slice(x, axis 1, 0 to 2), axis 2, 1 to 5)

FuriosaAI's compiler, for one, puts a Slice on its NPU for the height and the channel axis only (its list of supported
operators), so what a joint Slice does to another axis costs it all of the node. Axes that are taken whole (from 0 to
INT_MAX) get no Slice.

It does not fire when
1. it takes one axis already
2. its bounds or axes are computed, or a caller may override them
3. an axis stands twice, which ONNX leaves undefined
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.operators.axes import bounds
from graphsurgery.operators.slices import chain, slicing, takes_all
from graphsurgery.rewrite import Editor, NodePass, Refuse


class SplitMultiAxisSlice(NodePass):
    name = "split-multi-axis-slice"
    effect = "exact"
    matches = ("Slice",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        taken = bounds(node)
        if taken is None:
            if edit.static_shape(node.inputs[1]) == (1,):
                return
            raise Refuse("its bounds are not constant")
        if len(taken) <= 1:
            return
        if len({each.axis for each in taken}) < len(taken):
            raise Refuse("an axis stands twice in it")
        kept = [each for each in taken if not takes_all(each)] or taken[:1]
        hint = node.outputs[0].name
        chain(edit, node, node.inputs[0], [slicing(edit, hint, [each]) for each in kept])
