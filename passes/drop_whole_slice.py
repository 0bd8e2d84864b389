"""Drop a Slice that takes all of its input: a compiler copies it, or leaves it to the CPU.

    boxes [100, 4] -> Slice(rows 0 to 100)    ->   boxes
    boxes [N, 4] -> Slice(from 0 to the end)  ->   boxes

torch writes one where a list of images is split and there is one alone; behind `freeze-shapes`, `simplify` and whatever
makes numbers of boxes constant, its end is the number of rows. Where the output's name can't be written by what writes
the input, an Identity stays.

It does not fire when
1. its bounds are not constant
2. nothing tells the size of an axis that it cuts, and it does not go from the first element to the end
3. it takes less, or goes backwards
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.operators.axes import bounds
from graphsurgery.operators.slices import picked, takes_all
from graphsurgery.rewrite import Editor, NodePass, Refuse


class DropWholeSlice(NodePass):
    name = "drop-whole-slice"
    effect = "exact"
    matches = ("Slice",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        cuts = bounds(node)
        if cuts is None:
            raise Refuse("its bounds are not constant")
        data, known = node.inputs[0], [cut for cut in cuts if not takes_all(cut)]
        if any(cut.step < 1 for cut in known):
            raise Refuse("it goes backwards")
        shape = edit.shape(data) if known else []
        for cut in known:
            size = None if shape is None else shape[cut.axis]
            if not isinstance(size, int):
                raise Refuse(f"nothing tells the size of axis {cut.axis} of '{data.name}'")
            if picked(cut, size) != range(size):
                raise Refuse(f"it takes {len(picked(cut, size))} of {size} along axis {cut.axis}")
        edit.bypass(node, data)
