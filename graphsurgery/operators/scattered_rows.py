"""Scatters that write whole rows, as exporters put the boxes of a pyramid's levels back into their order."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant, consumers, is_op, producer
from graphsurgery.rewrite import Editor, Refuse

SCATTERS = ("Scatter", "ScatterElements", "ScatterND")  # Scatter: up to operator set 10


def levels_written(node: gs.Node) -> list[gs.Node]:
    """Return the scatters that write one into the other, `node`, the last, first; none where it is one in between."""
    out = node.outputs[0]
    if any(is_op(reader, *SCATTERS) and reader.inputs[0] is out for reader in consumers(out)):
        return []
    levels = [node]
    while is_op(producer(levels[-1].inputs[0]), *SCATTERS):
        levels.append(producer(levels[-1].inputs[0]))
    return levels


def shapes_asked(level: gs.Node, levels: list[gs.Node], edit: Editor) -> list[gs.Node]:
    """Return the nodes that ask for the shape of a level in between.

    Raises Refuse where anything but these and the next level reads it.
    """
    out = level.outputs[0]
    others = [node for node in consumers(out) if not any(node is each for each in levels)]
    if edit.is_output(out) or any(not is_op(node, "Shape") or node.attrs for node in others):
        raise Refuse(f"'{out.name}', a level in between, is read elsewhere too, or is a graph output")
    return others


def filled(data: gs.Tensor, edit: Editor) -> tuple[np.ndarray, gs.Tensor]:
    """Return the one value [1] that `data` holds throughout, and its shape, int64.

    Raises Refuse where that isn't known.
    """
    node, value = producer(data), constant(data)
    if node is not None and is_op(node, "ConstantOfShape"):
        held = attribute(node, "value", None)
        return np.zeros(1, np.float32) if held is None else np.asarray(held.values).ravel()[:1], node.inputs[0]
    if value is None or not value.size or np.any(value != value.ravel()[0]):
        raise Refuse("what its first level is written into is not the same everywhere")
    return value.ravel()[:1], edit.constant(f"{data.name}_shape", list(value.shape))


def require_row_numbers(node: gs.Node, edit: Editor) -> gs.Tensor:
    """Return the tensor with the number of each row that a ScatterElements or ScatterND writes, int64 of any shape.

    Raises Refuse where it does not write whole rows along the first axis, or combines them with what is there.
    """
    data, indices, updates = node.inputs
    if attribute(node, "reduction", "none") != "none":
        raise Refuse("it combines what is written with what is there")
    by_element = not is_op(node, "ScatterND")
    spreading = producer(indices) if by_element else None
    if by_element and (spreading is None or not is_op(spreading, "Expand")):
        raise Refuse("its indices are not spread by an Expand")
    rows = indices if spreading is None else spreading.inputs[0]
    sizes, numbers = _with_sizes(data, edit), edit.shape(rows)
    # ScatterND may only write whole rows at row numbers; ScatterElements is given indices of the shape of what it
    # writes, and of computed indices that is seldom known
    written = edit.shape(updates) if by_element else sizes
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


def row_sizes(node: gs.Node, edit: Editor) -> list[int]:
    """Return the sizes of a row that a scatter with row numbers writes."""
    return [size for size in (_with_sizes(node.inputs[0], edit) or [])[1:] if isinstance(size, int)]


def _with_sizes(data: gs.Tensor, edit: Editor) -> list[int | str | None] | None:
    """Return the shape of what is written into; inference loses that of a ConstantOfShape with one open size."""
    first = producer(data)
    while first is not None and is_op(first, *SCATTERS):
        first = producer(first.inputs[0])
    joined = producer(first.inputs[0]) if first is not None and is_op(first, "ConstantOfShape") else None
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
