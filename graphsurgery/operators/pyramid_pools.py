"""Pools of regions on the levels of a feature pyramid, as exporters write them: on each level RoiAlign of its own.

scattered   NonZero(level == i), Gather or GatherND of these regions, RoiAlign, ScatterElements or ScatterND of the rows
masked      regions * mask, RoiAlign of all regions, the result * mask, and a sum; mask is 1 where level == i, else 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.errors import PassError
from graphsurgery.graph import attribute, constant, consumers, is_op, producer
from graphsurgery.operators.operands import scalar
from graphsurgery.operators.scattered_rows import require_row_numbers, row_sizes
from graphsurgery.rewrite import Editor, Refuse

_KEEPS_ORDER = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_PICKS_COLUMNS = ("Cast", "Gather", "Identity", "Slice", "Split", "Squeeze", "Sub", "Mul")
_SHIFTS = 16  # the operator set in which RoiAlign can move regions by half a cell, and by default does


@dataclass(frozen=True)
class LevelPool:
    """A RoiAlign on one level: of those of `rois` [K, 5], (image, x1, y1, x2, y2), whose `level` [K] is `number`.

    `aligned` is whether regions are moved by half a cell.
    """

    align: gs.Node
    rois: gs.Tensor
    level: gs.Tensor
    number: int
    aligned: bool


def scattered_pool(scatter: gs.Node, edit: Editor) -> LevelPool | None:
    """Return the pool whose rows `scatter` writes; None where they come from no RoiAlign.

    Raises Refuse where it is pooled from other rows than it writes, or nothing tells.
    """
    align = _align_behind(scatter.inputs[2], edit)
    if align is None:
        return None
    numbers = require_row_numbers(scatter, edit)
    if (edit.shape(align.outputs[0]) or [])[1:] != row_sizes(scatter, edit):
        raise Refuse(
            f"what RoiAlign '{align.name}' pools is not known to be as large as the rows that it is written to"
        )
    selected = _selected_regions(align, ("Gather", "GatherND"))
    if int(attribute(selected, "axis", 0)) != 0 or int(attribute(selected, "batch_dims", 0)) != 0:
        raise Refuse(f"the regions of RoiAlign '{align.name}' are not whole rows of one tensor")
    level, number = _picked(selected.inputs[1])
    written, other = _picked(numbers)
    if written is not level or other != number:
        raise Refuse(f"what RoiAlign '{align.name}' pools is written into other rows than its regions come from")
    return _pool(align, selected, selected.inputs[0], level, number, edit)


def masked_pools(total: gs.Node, edit: Editor) -> list[LevelPool]:
    """Return the pools that the sum `total` is of, none where it is no such sum or a part of one.

    Raises Refuse where a part is masked in another way than its regions, or is neither a pool nor zero.
    """
    if any(_is_sum(reader) for reader in consumers(total.outputs[0])):
        return []
    parts = _parts(total)
    masked = [(part, _align_and_mask(part)) for part in parts]
    if sum(found is not None for _, found in masked) < 2:
        return []
    pools = []
    for part, found in masked:
        if found is None:
            if not _is_zero(part):
                raise Refuse(f"'{part.name}', a part of the sum of its levels, is neither pooled nor zero")
            continue
        align, mask = found
        selected = _selected_regions(align, ("Mul",))
        of_pooled = _mask(mask, align.outputs[0], edit)
        for rois, own in (selected.inputs, selected.inputs[::-1]):
            of_regions = _mask(own, rois, edit)
            if of_regions is not None:
                break
        if of_regions is None or of_pooled is None or not _same(of_regions, of_pooled):
            raise Refuse(f"what RoiAlign '{align.name}' pools is masked in another way than its regions are")
        pools.append(_pool(align, selected, rois, *of_regions, edit))
    return pools


def _is_sum(node: gs.Node) -> bool:
    """Whether `node` adds one more level."""
    return is_op(node, "Add") and any(_align_and_mask(tensor) is not None for tensor in node.inputs)


def _parts(total: gs.Node) -> list[gs.Tensor]:
    parts: list[gs.Tensor] = []
    pending = list(total.inputs)
    while pending:
        tensor = pending.pop()
        node = producer(tensor)
        if node is not None and is_op(node, "Add"):
            pending += node.inputs
        else:
            parts.append(tensor)
    return parts


def _is_zero(tensor: gs.Tensor) -> bool:
    node, value = producer(tensor), constant(tensor)
    if node is not None and is_op(node, "Mul"):
        return any(scalar(each) == 0 for each in node.inputs)
    if node is not None and is_op(node, "ConstantOfShape"):
        held = attribute(node, "value", None)
        return held is None or not np.any(held.values)
    return value is not None and not np.any(value)


def _align_and_mask(tensor: gs.Tensor) -> tuple[gs.Node, gs.Tensor] | None:
    """Return the RoiAlign and the other factor of a product with what it pools."""
    node = producer(tensor)
    if node is None or not is_op(node, "Mul"):
        return None
    for pooled, mask in (node.inputs, node.inputs[::-1]):
        align = producer(pooled)
        if align is not None and is_op(align, "RoiAlign"):
            return align, mask
    return None


def _mask(tensor: gs.Tensor, masked: gs.Tensor, edit: Editor) -> tuple[gs.Tensor, int] | None:
    """Return the levels and the number that they are compared with to get `tensor`, which masks rows of `masked`."""
    shape, whole = edit.shape(tensor), edit.shape(masked)
    if shape is None or whole is None or len(shape) != len(whole):
        return None
    if any(size not in (1, full) for size, full in zip(shape[1:], whole[1:], strict=True)):
        return None
    node = producer(tensor)
    while node is not None and is_op(node, *_KEEPS_ORDER, "Expand"):
        spread = edit.shape(node.inputs[0]) or []
        if is_op(node, "Expand") and (len(spread) < 2 or any(size != 1 for size in spread[1:])):
            return None
        node = producer(node.inputs[0])
    return _compared(node)


def _same(one: tuple[gs.Tensor, int], other: tuple[gs.Tensor, int]) -> bool:
    return one[0] is other[0] and one[1] == other[1]


def _picked(numbers: gs.Tensor) -> tuple[gs.Tensor, int]:
    """Return the levels and the number for which `numbers` are those of the rows whose level it is.

    NonZero of levels [K] is one row of numbers, which nothing of what may follow puts into another order.
    """
    node = producer(numbers)
    while node is not None and (
        is_op(node, *_KEEPS_ORDER, "Transpose") or (is_op(node, "Split") and len(node.outputs) == 1)
    ):
        node = producer(node.inputs[0])
    found = None
    if node is not None and is_op(node, "NonZero"):
        found = _compared(producer(node.inputs[0]))
    if found is None:
        raise Refuse(f"the rows '{numbers.name}' are not those of one level, which NonZero(Equal) picks")
    return found


def _compared(node: gs.Node | None) -> tuple[gs.Tensor, int] | None:
    """Return the levels, one per region, and the whole number that an Equal compares them with."""
    if node is None or not is_op(node, "Equal"):
        return None
    for level, number in (node.inputs, node.inputs[::-1]):
        value = scalar(number)
        if value is not None and value.is_integer():
            return level, int(value)
    return None


def _align_behind(updates: gs.Tensor, edit: Editor) -> gs.Node | None:
    """Return the RoiAlign that computes `updates`, which a node in between may write down anew."""
    node = producer(updates)
    while node is not None and is_op(node, "Cast", "Identity", "Reshape"):
        node = producer(node.inputs[0])
    if node is None or not is_op(node, "RoiAlign"):
        return None
    pooled = node.outputs[0]
    if edit.dtype(pooled) != edit.dtype(updates):
        raise Refuse(f"what RoiAlign '{node.name}' pools is of another type in '{updates.name}'")
    return node


def _selected_regions(align: gs.Node, ops: Sequence[str]) -> gs.Node:
    """Return the node that selects whole regions, [n, 5], for `align`: both its boxes and its images are of them."""
    found = []
    for tensor in align.inputs[1:3]:
        node = producer(tensor)
        while node is not None and not _selects_rows(node, ops) and is_op(node, *_PICKS_COLUMNS):
            node = producer(node.inputs[0])
        found.append(node)
    if found[0] is None or found[0] is not found[1] or not _selects_rows(found[0], ops):
        raise Refuse(f"the boxes and the images of RoiAlign '{align.name}' are not known to be columns of its regions")
    return found[0]


def _selects_rows(node: gs.Node, ops: Sequence[str]) -> bool:
    """Whether `node` is one of `ops` and looks at rows: columns that a Gather takes are numbered by constants."""
    if is_op(node, "Mul"):
        return "Mul" in ops and all(constant(tensor) is None for tensor in node.inputs)
    return is_op(node, *ops) and constant(node.inputs[1]) is None


def _pool(align: gs.Node, selected: gs.Node, rois: gs.Tensor, level: gs.Tensor, number: int, edit: Editor) -> LevelPool:
    """Return the pool, or raise Refuse where what `align` reads is not the columns of the regions `selected`."""
    regions, ends = selected.outputs[0], edit.shape(rois)
    if ends is None or len(ends) != 2 or ends[1] != 5:
        raise Refuse(f"the regions '{rois.name}' are not known to have five columns")
    dtype, shape = edit.dtype(regions), edit.shape(regions)
    count = shape[0] if shape and isinstance(shape[0], int) else 3
    probe = (np.arange(count * 5) % 97).reshape(count, 5).astype(dtype or np.float32)  # no column is another
    try:
        boxes, images = edit.evaluate(align.inputs[1:3], {regions.name: probe})
    except PassError as error:
        raise Refuse(f"what RoiAlign '{align.name}' reads does not follow from its regions: {error}") from error
    shifts = probe[:, 1:] - boxes if boxes.shape == (count, 4) else np.array([np.nan])
    if np.ptp(shifts) != 0 or not np.array_equal(images, probe[:, 0].astype(np.int64)):  # NaN is not 0 either
        raise Refuse(f"the boxes and the images of RoiAlign '{align.name}' are not the columns of its regions")
    cells = float(shifts.flat[0]) * float(attribute(align, "spatial_scale", 1.0))
    mode = attribute(align, "coordinate_transformation_mode", "half_pixel")
    cells += 0.5 if edit.opset >= _SHIFTS and mode == "half_pixel" else 0.0
    if cells not in (0.0, 0.5):
        raise Refuse(f"the regions of RoiAlign '{align.name}' are moved by {cells:g} of a cell, not by none or a half")
    return LevelPool(align, rois, level, number, aligned=cells == 0.5)
