"""Scatters that write whole rows, as exporters put the boxes of a pyramid's levels back into their order."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant, is_op, producer
from graphsurgery.rewrite import Editor, Refuse


def require_row_numbers(node: gs.Node, edit: Editor) -> gs.Tensor:
    """Return the tensor with the number of each row that a ScatterElements or ScatterND writes, int64 of any shape.

    Raises Refuse where it does not write whole rows along the first axis, or combines them with what is there.
    """
    data, indices, updates = node.inputs
    if attribute(node, "reduction", "none") != "none":
        raise Refuse("it combines what is written with what is there")
    by_element = is_op(node, "ScatterElements")
    spreading = producer(indices) if by_element else None
    if by_element and (spreading is None or not is_op(spreading, "Expand")):
        raise Refuse("its indices are not spread by an Expand")
    rows = indices if spreading is None else spreading.inputs[0]
    # ONNX wants indices and updates of one shape, and of computed indices it is seldom known
    sizes, written, numbers = _with_sizes(data, edit), edit.shape(updates), edit.shape(rows)
    if sizes is None or written is None or numbers is None:
        raise Refuse("nothing tells the shapes of its data, updates and row numbers")
    rank = len(sizes)
    if spreading is not None:
        if int(attribute(node, "axis", 0)) not in (0, -rank):
            raise Refuse("it writes along another axis than the first")
        spread = edit.static_shape(spreading.inputs[1]) == (rank,)
        if len(numbers) != rank or any(size != 1 for size in numbers[1:]) or not spread:
            raise Refuse("its indices are no row numbers")
    elif len(numbers) != 2 or numbers[1] != 1:
        raise Refuse("its indices are no row numbers")
    if written[1:] != sizes[1:] or not all(isinstance(size, int) for size in sizes[1:]):
        raise Refuse("the rows that it writes are not known to be as large as those of its data")
    if edit.dtype(rows) != np.int64:
        raise Refuse("its indices are not int64")
    return rows


def _with_sizes(data: gs.Tensor, edit: Editor) -> list[int | str | None] | None:
    """Return the shape of what is written into; inference loses that of a ConstantOfShape with one open size."""
    filled = producer(data)
    while filled is not None and is_op(filled, "ScatterElements", "ScatterND"):
        filled = producer(filled.inputs[0])
    joined = producer(filled.inputs[0]) if filled is not None and is_op(filled, "ConstantOfShape") else None
    known = edit.shape(data)
    if joined is None or not is_op(joined, "Concat") or all(isinstance(size, int) for size in (known or [None])[1:]):
        return known
    sizes: list[int | str | None] = []
    for part in joined.inputs:
        value, shape = constant(part), edit.static_shape(part)
        if value is None and shape is None:
            return known
        sizes += [None] * math.prod(shape or (1,)) if value is None else value.ravel().tolist()
    return sizes
