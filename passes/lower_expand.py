"""Turn an Expand into a Tile, or into nothing where its readers broadcast anyway, for compilers without Expand.

    Expand(x [1, 3, 1], shape [1, 3, 5])        ->  Tile(x, repeats [1, 1, 5])
    Expand(x [3, 1], shape [2, 3, 5])           ->  Tile(Reshape(x, [1, 3, 1]), repeats [2, 1, 5])
    Expand(x [1, 3, 5], shape [3, 1])           ->  x
    Add(Expand(x [1, 3], [2, 3]), y [2, 3])     ->  Add(x, y), which has the same shape without it

The shape may have sizes of 1 where the input has others. Sizes that are not known may stay so where the shape is 1
there. Between an input and an output of the model, one that does nothing becomes an Identity.

It does not fire when
1. the shape is computed, or a caller may override it
2. the rank of the input is not known
3. nothing tells whether a size is 1, which the Expand repeats, or what the shape says already
4. the shapes contradict each other, or the result is empty
5. an axis comes in front, and the sizes that are not known, or 0, can't be written down for the Reshape
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import consumers, is_op
from graphsurgery.operators.requirements import require_constant, require_shape
from graphsurgery.operators.slices import Link, chain, relabelled, reshaping
from graphsurgery.rewrite import Editor, NodePass, Refuse

# Not PRelu: its slope is broadcast to the data, never the other way.
_BROADCASTING = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual"),
    *("Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor"),
)


class LowerExpand(NodePass):
    name = "lower-expand"
    effect = "exact"
    matches = ("Expand",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        data, out = node.inputs[0], node.outputs[0]
        goals = [int(goal) for goal in require_constant(node.inputs[1], "its shape is").ravel()]
        shape = require_shape(data, edit)
        added = max(0, len(goals) - len(shape))
        goals = [1] * (len(shape) - len(goals)) + goals
        repeats = []
        for axis, (size, goal) in enumerate(zip([1] * added + shape, goals, strict=True)):
            if goal not in (1, size) and size is None:
                raise Refuse(f"the size of axis {axis} is not known: it may be 1 or {goal}")
            if goal not in (1, size) and (size != 1 or goal < 1):
                raise Refuse(f"it makes size {goal} of size {size} at axis {axis}")
            repeats.append(1 if goal in (1, size) else goal)
        if not added and set(repeats) <= {1}:
            edit.bypass(node, data)
            return
        front = relabelled([None] * added + list(range(len(shape))), shape) if added else []
        _let_readers_broadcast(node, [1] * added + shape, goals, edit)
        if not consumers(out) and not edit.is_output(out):
            return
        links = [reshaping(edit, out.name, front)] if added else []
        if set(repeats) != {1}:
            links.append(Link("Tile", (edit.constant(f"{out.name}_repeats", repeats),)))
        chain(edit, node, data, links)


def _let_readers_broadcast(node: gs.Node, given: Sequence[int | None], goals: Sequence[int], edit: Editor) -> None:
    """Let the operators that read an Expand read its input, where their result has the same shape without it.

    `given` is its input's shape, as many axes as its result has; `goals` is what it is told.
    """
    data, out = node.inputs[0], node.outputs[0]
    if None in given:
        return
    # not asked for: inference does not see through an Expand in a body whose shape stands outside
    whole = tuple(goal if size == 1 else size for size, goal in zip(given, goals, strict=True) if size is not None)
    for reader in {id(reader): reader for reader in consumers(out) if is_op(reader, *_BROADCASTING)}.values():
        read = list(reader.inputs)
        expanded = [whole if tensor is out else edit.static_shape(tensor) for tensor in read]
        plain = [edit.static_shape(data if tensor is out else tensor) for tensor in read]
        if _joint(plain) is not None and _joint(plain) == _joint(expanded):
            for index, tensor in enumerate(read):
                if tensor is out:
                    edit.set_input(reader, index, data)


def _joint(shapes: list[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    known = [shape for shape in shapes if shape is not None]
    return np.broadcast_shapes(*known) if len(known) == len(shapes) else None
