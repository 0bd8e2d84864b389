"""Put the boxes of a pyramid's levels back into their order by one Gather, where a scatter is slow.

    zeros -> ScatterElements or ScatterND of level 1's rows -> ... of level n's rows -> y
        ->  y = Gather(Concat(level n's rows, ..., level 1's, a row of zeros), ArgMax(who wrote row i), axis 0)

PyTorch writes the rows that RoIAlign pools of each level into zeros, at the numbers that NonZero found: torchvision by
ScatterElements, detectron2 by ScatterND. Here one matrix says of each row which of the joined ones has its number,

    Equal(Range(rows) [r, 1], the numbers [1, n])   with a last column of ones for the zeros

and ArgMax takes the first, which was written last: small, and no scatter is left. Qualcomm measured 120 ms against
8,000 on their NPU for such a Gather. With ONNX Runtime on two threads, 1,000 boxes of 256 x 7 x 7 in three levels take
27 ms, as exported 337, behind `lower-scatter-elements` 96. That one asks for less: it takes one level alone, data that
is not the same everywhere, numbers that may be negative, and levels that are read in between. This one fires behind it
too, so that both can stand in a recipe, in either order.

mmdet multiplies what each level pools by 0 or 1 and adds, so that nothing is to be put into order; it stays.

Where one level has a row number twice, ONNX leaves open which of them remains, in both forms.

It does not fire when
1. what the first level is written into is not the same everywhere, or anything but the next level reads one in between
2. a level does not write whole rows, or combines them with what is there
3. a row number may be negative: nothing tells that it comes from NonZero
4. nothing tells how large a row is, or the operator set is below 11: put raise-opset before it, which also makes a
   ScatterElements of each Scatter
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.operators.scattered_rows import (
    SCATTERS,
    filled,
    levels_written,
    require_row_numbers,
    row_sizes,
    shapes_asked,
)
from graphsurgery.operators.value_ranges import Intervals
from graphsurgery.rewrite import Editor, NodePass, Refuse


class PoolLevelsByGather(NodePass):
    name = "pool-levels-by-gather"
    effect = "exact"
    matches = SCATTERS

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        levels = levels_written(node)
        if not levels:
            return
        if len(levels) < 2:
            raise Refuse("it writes one level alone")
        if edit.opset < 11:
            raise Refuse(f"operator set {edit.opset} has no Range")
        asked = [shapes_asked(level, levels, edit) for level in levels[1:]]
        numbers = [require_row_numbers(level, edit) for level in levels]
        intervals = Intervals(edit)
        for rows in numbers:
            found = intervals.of(rows)
            if found is None or found[0] < 0:
                raise Refuse(f"nothing tells that the row numbers '{rows.name}' are not negative")
        fill, shape = filled(levels[-1].inputs[0], edit)
        hint = node.outputs[0].name
        joined = [level.inputs[2] for level in levels]
        nothing = edit.constant(f"{hint}_nothing", np.broadcast_to(fill, [1, *row_sizes(node, edit)]))
        rows_first = edit.emit("Concat", [*joined, nothing], {"axis": 0}, hint=f"{hint}_levels")
        index = _index(numbers, shape, hint, edit)
        edit.replace(node, "Gather", [rows_first, index], {"axis": 0})
        for reader in (reader for readers in asked for reader in readers):
            edit.bypass(reader, shape)


def _index(numbers: list[gs.Tensor], shape: gs.Tensor, hint: str, edit: Editor) -> gs.Tensor:
    """Return, for each row of `shape`, the place among all `numbers` of the first that is its own; else their count."""
    column, row = edit.constant(f"{hint}_column", [-1, 1]), edit.constant(f"{hint}_row", [1, -1])
    flat = [edit.emit("Reshape", [each, row], hint=f"{hint}_numbers") for each in numbers]
    written = edit.emit("Concat", flat, {"axis": 1}, hint=f"{hint}_written")
    first = edit.constant(f"{hint}_first", np.array(0))
    count = edit.emit("Gather", [shape, first], {"axis": 0}, hint=f"{hint}_count")
    rows = edit.emit("Range", [first, count, edit.constant(f"{hint}_step", np.array(1))], hint=f"{hint}_range")
    mine = edit.emit("Equal", [edit.emit("Reshape", [rows, column], hint=f"{hint}_rows"), written], hint=f"{hint}_own")
    marked = edit.emit("Cast", [mine], {"to": 1}, hint=f"{hint}_marked")
    pads = [edit.constant(f"{hint}_pads", [0, 0, 0, 1]), edit.constant(f"{hint}_one", np.array(1, np.float32))]
    found = edit.emit("Pad", [marked, *pads], hint=f"{hint}_found")
    return edit.emit("ArgMax", [found], {"axis": 1, "keepdims": 0}, hint=f"{hint}_index")
