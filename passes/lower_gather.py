"""Turn a Gather of neighbours into a Slice, for accelerators that look nothing up in a table.

    Gather(x, 2, axis 1)          ->  Squeeze(Slice(x, axis 1, from 2 to 3), axis 1)
    Gather(x, [2], axis 1)        ->  Slice(x, axis 1, from 2 to 3)
    Gather(x, [2, 3, 4], axis 1)  ->  Slice(x, axis 1, from 2 to 5)

This is how x[:, 2] comes out of PyTorch's exporter. FuriosaAI's compiler, for one, puts a Slice on its NPU and a Gather
on the CPU (its list of supported operators, SDK 0.9). An index from the back is counted from the front where the size
of the axis is known.

It does not fire when
1. the indices are computed, or a caller may override them
2. they have more than one dimension, or there are none
3. they are not neighbours in ascending order
4. one is out of range
5. the size of the axis is not known, and they count from both ends
6. the axis counts from the back, nothing tells the rank, and the operator set (before 11) counts from the front only
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.axes import Bounds
from graphsurgery.operators.requirements import require_constant
from graphsurgery.operators.slices import TO_THE_END, chain, locate, on_axes, slicing
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerGather(NodePass):
    name = "lower-gather"
    effect = "exact"
    matches = ("Gather",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        data = node.inputs[0]
        held = require_constant(node.inputs[1], "its indices are")
        if held.ndim > 1 or held.size == 0:
            raise Refuse(f"its indices have the shape {list(held.shape)}")
        axis, size = locate(edit, data, int(attribute(node, "axis", 0)))
        indices = [int(index) for index in held.ravel()]
        if size is not None:
            if any(not -size <= index < size for index in indices):
                raise Refuse(f"an index is out of range for axis {axis} of size {size}")
            indices = [index % size for index in indices]
        elif min(indices) < 0 <= max(indices):
            raise Refuse(f"its indices count from both ends of axis {axis}, whose size is not known")
        first = indices[0]
        if indices != list(range(first, first + len(indices))):
            raise Refuse("its indices are not neighbours in ascending order")
        end = first + len(indices) or TO_THE_END  # 0 is behind the last element here, counted from the back
        hint = node.outputs[0].name
        links = [slicing(edit, hint, [Bounds(axis, first, end, 1)])]
        if held.ndim == 0:
            links.append(on_axes(edit, "Squeeze", hint, [axis]))
        chain(edit, node, data, links)
