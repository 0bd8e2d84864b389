"""Turn a Gather of neighbours into a Slice, or of others into some, where nothing is looked up in a table.

    Gather(x, 2, axis 1)          ->  Squeeze(Slice(x, axis 1, from 2 to 3), axis 1)
    Gather(x, [2], axis 1)        ->  Slice(x, axis 1, from 2 to 3)
    Gather(x, [2, 3, 4], axis 1)  ->  Slice(x, axis 1, from 2 to 5)
    with most: 2 or more
    Gather(x, [4, 0, 1], axis 1)  ->  Concat(Slice(x, axis 1, from 4 to 5), Slice(x, axis 1, from 0 to 2), axis 1)

This is how x[:, 2] comes out of PyTorch's exporter. FuriosaAI's compiler, for one, puts a Slice on its NPU and a Gather
on the CPU (its list of supported operators, SDK 0.9). An index from the back is counted from the front where the size
of the axis is known.

It does not fire when
1. the indices are computed, or a caller may override them
2. they have more than one dimension, or there are none
3. they are not neighbours in ascending order, or more than `most` runs of such
4. one is out of range
5. the size of the axis is not known, and they count from both ends
6. the axis counts from the back, nothing tells the rank, and the operator set (before 11) counts from the front only
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.axes import Bounds
from graphsurgery.operators.requirements import require_constant
from graphsurgery.operators.slices import TO_THE_END, chain, locate, on_axes, slicing
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class LowerGather(NodePass):
    """`most` is the largest number of Slices that one becomes."""

    name = "lower-gather"
    effect = "exact"
    matches = ("Gather",)

    most: int = 1

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
        runs = _runs(indices)
        if len(runs) > max(self.most, 1):
            told = "are not neighbours in ascending order" if self.most <= 1 else f"are {len(runs)} runs of neighbours"
            raise Refuse(f"its indices {told}")
        hint = node.outputs[0].name
        if len(runs) == 1:
            links = [slicing(edit, hint, [_bounds(axis, runs[0])])]
            if held.ndim == 0:
                links.append(on_axes(edit, "Squeeze", hint, [axis]))
            return chain(edit, node, data, links)
        parts = []
        for number, run in enumerate(runs):
            link = slicing(edit, f"{hint}_{number}", [_bounds(axis, run)])
            parts.append(edit.emit(link.op, [data, *link.parameters], link.attrs, hint=f"{hint}_run_{number}"))
        edit.replace(node, "Concat", parts, {"axis": axis})


def _runs(indices: list[int]) -> list[range]:
    """Return the indices as ranges that are as long as they can be."""
    runs: list[range] = []
    for index in indices:
        if runs and index == runs[-1].stop and index:
            runs[-1] = range(runs[-1].start, index + 1)
        else:
            runs.append(range(index, index + 1))
    return runs


def _bounds(axis: int, run: range) -> Bounds:
    return Bounds(axis, run.start, run.stop or TO_THE_END, 1)  # 0 is behind the last element, counted from the back
