"""Turn a Split into one Slice for each of its parts, for compilers that take a Slice but no node with several outputs.

    a, b = Split(x, axis 1, sizes 2, 3)  ->  a = Slice(x, axis 1, from 0 to 2), b = Slice(x, axis 1, from 2 to 5)

The sizes may stand in an attribute (before operator set 13), in an input, or follow from the number of outputs: parts
are equal then, and from operator set 18 on the last one may be smaller. A part that nothing reads gets no Slice.

It does not fire when
1. the sizes of the parts are computed, or a caller may override them
2. no sizes are given and that of the axis is not known, or it can't be cut into so many parts
3. the axis counts from the back, nothing tells the rank, and the operator set (before 11) counts from the front only
4. the number of outputs is not that of the sizes
"""

from __future__ import annotations

from itertools import accumulate

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.axes import Bounds
from graphsurgery.operators.requirements import require_integers
from graphsurgery.operators.slices import locate, slicing
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerSplit(NodePass):
    name = "lower-split"
    effect = "exact"
    matches = ("Split",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        sizes = require_integers(node, "split", 1, "the sizes of its parts are")
        data, outputs = node.inputs[0], list(node.outputs)
        axis, whole = locate(edit, data, int(attribute(node, "axis", 0)))
        if not sizes:
            if whole is None:
                raise Refuse(f"no sizes are given, and that of axis {axis} is not known")
            sizes = _equal_parts(whole, int(attribute(node, "num_outputs", len(outputs))), edit.opset)
        if len(sizes) != len(outputs):
            raise Refuse(f"it has {len(outputs)} outputs for {len(sizes)} parts")
        starts = accumulate(sizes, initial=0)
        parts = [
            (output, Bounds(axis, start, start + size, 1))
            for output, start, size in zip(outputs, starts, sizes, strict=False)
            if output.outputs or edit.is_output(output)
        ]
        for output, taken in parts:
            link = slicing(edit, output.name, [taken])
            edit.emit(link.op, [data, *link.parameters], link.attrs, hint=output.name, writes=output)
        if parts:
            edit.remove(node)


def _equal_parts(size: int, parts: int, opset: int) -> list[int]:
    """Return the sizes of `parts` equal parts; from operator set 18 on the last one may be smaller, but not empty."""
    if size % parts == 0:
        return [size // parts] * parts
    part = -(-size // parts)
    last = size - part * (parts - 1)
    if opset < 18 or last <= 0:
        raise Refuse(f"an axis of size {size} can't be cut into {parts} parts")
    return [*[part] * (parts - 1), last]
