"""Lower a Pad that repeats what is at the edges to Slices and Concats, for accelerators that pad with zeros only.

    Pad(reflect, 2 before and 1 behind)  ->  Concat(x[2], x[1], x, x[-2])     along each axis that it pads
    Pad(edge, 2 before)                  ->  Concat(x[0], x[0], x)
    Pad(wrap, 2 before)                  ->  Concat(x[-2:], x)
    with constant: true
    Pad(constant v, 2 before)            ->  Concat(v, x)                     v is an initializer of the size it needs

Rows are only copied, so the results are the same bits.

It does not fire when
1. its mode is constant, where `constant` is not set
2. its pads or its value are computed, or it crops (a negative number)
3. nothing tells the rank of its input, or a size that the pads are measured by
4. it would take more than 64 Slices along an axis, or reflects or wraps more than there is
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.axes import Bounds
from graphsurgery.operators.pads import Padding, require_padding
from graphsurgery.operators.requirements import require_shape
from graphsurgery.operators.slices import TO_THE_END, slicing
from graphsurgery.rewrite import Editor, NodePass, Refuse

_MOST = 64


@dataclass(frozen=True)
class LowerPad(NodePass):
    """`constant` lowers a Pad of one value too, for accelerators that have no Pad at all."""

    name = "lower-pad"
    effect = "exact"
    matches = ("Pad",)

    constant: bool = False

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        mode = str(attribute(node, "mode", "constant"))
        if mode == "constant" and not self.constant:
            raise Refuse("it pads with one value; `constant: true` lowers that too")
        shape = require_shape(node.inputs[0], edit)
        given = require_padding(node, len(shape), "it")
        padded = [axis for axis in range(len(shape)) if given.begins[axis] or given.ends[axis]]
        if not padded:
            raise Refuse("it pads nothing")
        for axis in padded:
            _require_rows(given, axis, shape)
        dtype = edit.dtype(node.inputs[0])
        if mode == "constant" and (dtype is None or None in shape):
            raise Refuse("the shape or the type of its input is not known")
        data, hint, known = node.inputs[0], node.outputs[0].name, list(shape)
        for axis in padded:
            sides: list[list[gs.Tensor]] = []
            for side, count in (("before", given.begins[axis]), ("behind", given.ends[axis])):
                name = f"{hint}_{side}_{axis}"
                if mode == "constant" and count:
                    sizes = [count if other == axis else size or 0 for other, size in enumerate(known)]
                    sides.append([edit.constant(name, np.full(sizes, given.value, dtype))])
                else:
                    sides.append(_rows(data, axis, side, count, mode, name, edit))
            pieces = [*sides[0], data, *sides[1]]
            if axis == padded[-1]:
                return edit.replace(node, "Concat", pieces, {"axis": axis})
            data = edit.emit("Concat", pieces, {"axis": axis}, hint=f"{hint}_padded_{axis}")
            size = known[axis]
            known[axis] = None if size is None else size + given.begins[axis] + given.ends[axis]


def _require_rows(given: Padding, axis: int, shape: list[int | None]) -> None:
    """Demand that there are as many rows along `axis` as are copied."""
    most, size = max(given.begins[axis], given.ends[axis]), shape[axis]
    if given.mode == "reflect" and most > _MOST:
        raise Refuse(f"it pads {most} along axis {axis}: as many Slices")
    if given.mode == "constant":
        return
    least = {"reflect": most + 1, "wrap": most}.get(given.mode, 1)
    if size is None or size < least:
        raise Refuse(f"axis {axis} is not known to have the {least} rows that it copies")


def _rows(data: gs.Tensor, axis: int, side: str, count: int, mode: str, name: str, edit: Editor) -> list[gs.Tensor]:
    """Return what a Pad of that mode puts on one side of `data`."""
    if not count:
        return []
    before = side == "before"
    if mode == "wrap":
        wanted = [(-count, TO_THE_END) if before else (0, count)]
    elif mode == "reflect":
        starts = range(count, 0, -1) if before else range(-2, -2 - count, -1)
        wanted = [(start, start + 1) for start in starts]
    else:
        wanted = [(0, 1) if before else (-1, TO_THE_END)]
    found = []
    for start, end in wanted:
        link = slicing(edit, name, [Bounds(axis, start, end, 1)])
        found.append(edit.emit(link.op, [data, *link.parameters], link.attrs, hint=name))
    return found * (count if mode == "edge" else 1)
