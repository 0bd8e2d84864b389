"""Valid nodes of operators that move, choose or resize; see `bases`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from graphsurgery.probing.bases import _along, _different, base, node
from graphsurgery.probing.one_node import NotBuilt, OneNode, Operand, Sizes
from graphsurgery.probing.wishes import Wishes, fixed


@base("Resize", "Upsample")
def resize(op: str, wishes: Wishes) -> OneNode:
    """A Resize of stored factors."""
    mode = str(wishes.get("mode", "nearest"))
    rank = wishes.number("rank", 4)
    shape = wishes.shape(rank)
    axes = wishes.get("resized_axes", None)
    factors = [1.0] * len(shape)
    if axes is not None and not 0 <= wishes.number("resized_axes", 2) < len(shape):
        raise NotBuilt(f"rank {len(shape)} has no axis {axes}")
    factor = _factor(wishes)
    for axis in [wishes.number("resized_axes", 2)] if axes is not None else range(2, len(shape)):
        factors[axis] = factor
    if wishes.get("equal_scale", True) is False:
        factors[-1] *= 2
    stored = fixed(factors, "float32")
    if op == "Upsample":
        return node(op, wishes.data(shape), stored, mode=mode)
    attributes: dict[str, Any] = {"mode": mode}
    if "nearest_mode" not in wishes.values and mode == "nearest":
        attributes["nearest_mode"] = "floor"
    if "coordinate_transformation_mode" not in wishes.values:
        attributes["coordinate_transformation_mode"] = "asymmetric" if mode == "nearest" else "half_pixel"
    if wishes.get("sizes", None) == "given":
        sizes = [int(size * factor) for size, factor in zip(shape, factors, strict=True)]
        return node(op, wishes.data(shape), Operand(None), Operand(None), fixed(sizes), **attributes)
    return node(op, wishes.data(shape), Operand(None), stored, **attributes)


def _factor(wishes: Wishes) -> float:
    whole, power = wishes.get("whole_scale", True), wishes.get("power_of_two_scale", True)
    usual = 2.0 if whole and power else 3.0 if whole else 1.5
    return float(wishes.get("scale", usual))


@base("Slice")
def cut(op: str, wishes: Wishes) -> OneNode:
    """A Slice of one axis."""
    shape = wishes.shape()
    axis, step = _along(wishes, shape, len(shape) - 1), wishes.number("step", wishes.number("steps", 1))
    start, end = (1, shape[axis]) if step > 0 else (-1, -shape[axis])
    return node(op, wishes.data(shape), fixed([start]), fixed([end]), fixed([axis]), fixed([step]))


@base("Split")
def split(op: str, wishes: Wishes) -> OneNode:
    """A Split into two."""
    shape = wishes.shape()
    axis = _along(wishes, shape, 1)
    half = shape[axis] // 2
    return node(op, wishes.data(shape), fixed([half, shape[axis] - half]), outputs=2, axis=axis)


@base("Expand")
def expand(op: str, wishes: Wishes) -> OneNode:
    """An Expand of the last axis."""
    shape = wishes.shape()
    if not shape:
        raise NotBuilt("rank 0 has no axis")
    return node(op, wishes.data((*shape[:-1], 1)), fixed(shape))


@base("Tile")
def tile(op: str, wishes: Wishes) -> OneNode:
    """A Tile of the last axis."""
    shape = wishes.shape()
    return node(op, wishes.data(shape), fixed([*[1] * (len(shape) - 1), 2]))


@base("Reshape")
def reshape(op: str, wishes: Wishes) -> OneNode:
    """A Reshape that joins the last two axes."""
    shape = wishes.shape()
    if len(shape) < 2:
        return node(op, wishes.data(shape), fixed([2, -1] if shape else [1]))
    return node(op, wishes.data(shape), fixed([*shape[:-2], shape[-2] * shape[-1]]))


@base("Squeeze")
def squeeze(op: str, wishes: Wishes) -> OneNode:
    """A Squeeze of an axis in front."""
    shape = wishes.shape()
    return node(op, wishes.data((1, *shape[1:])), fixed([0]))


@base("Unsqueeze")
def unsqueeze(op: str, wishes: Wishes) -> OneNode:
    """An Unsqueeze in front."""
    return node(op, wishes.data(wishes.shape(3)), fixed([0]))


@base("DepthToSpace", "SpaceToDepth")
def blocks(op: str, wishes: Wishes) -> OneNode:
    """Channels to pixels, or back."""
    return node(op, wishes.data(wishes.shape()), blocksize=2)


@base("Pad")
def pad(op: str, wishes: Wishes) -> OneNode:
    """A Pad by one at both sides of one axis."""
    shape = wishes.shape()
    axis = wishes.number("padded_axes", len(shape) - 1)
    axis = wishes.number("padded_axes_from_end", axis - len(shape)) % max(len(shape), 1)
    ends = [int(axis == each) for each in range(len(shape))]
    operands = [wishes.data(shape), fixed([*ends, *ends])]
    value = wishes.get("constant_value", None)
    if value is not None:
        operands.append(Operand(np.asarray(value, wishes.dtype), constant=True))
    return node(op, *operands)


@base("Cast")
def cast(op: str, wishes: Wishes) -> OneNode:
    """A Cast, to float16 from float32, to float32 from others."""
    return node(op, wishes.data(wishes.shape()), to=wishes.number("to", 10 if wishes.dtype == np.float32 else 1))


@base("Gather")
def gather(op: str, wishes: Wishes) -> OneNode:
    """A Gather of some rows."""
    shape = wishes.shape()
    if not shape:
        raise NotBuilt("rank 0 has no axis")
    axis, rank = _along(wishes, shape, 1), wishes.number("second_rank", 1)
    chosen = wishes.rng.integers(0, shape[axis], (2,) * rank)
    return node(op, wishes.data(shape), _indices(wishes, chosen), axis=axis)


def _indices(wishes: Wishes, chosen: Any) -> Operand:
    """Return indices that are stored, or fed where that is wished."""
    fed = wishes.get("indices_are_fed", None)
    kind = str(fed or wishes.get("indices_type", "int64"))
    return Operand(np.asarray(chosen, kind), constant=not fed)


@base("GatherND")
def gather_nd(op: str, wishes: Wishes) -> OneNode:
    """A GatherND of some pixels."""
    shape = wishes.shape()
    chosen = np.stack([wishes.rng.integers(0, size, 3) for size in shape[:2]], axis=-1)
    return node(op, wishes.data(shape), _indices(wishes, chosen))


@base("GatherElements")
def gather_elements(op: str, wishes: Wishes) -> OneNode:
    """A GatherElements along the last axis."""
    shape = wishes.shape()
    axis = _along(wishes, shape, len(shape) - 1)
    return node(op, wishes.data(shape), _indices(wishes, wishes.rng.integers(0, shape[axis], shape)), axis=axis)


@base("ScatterND")
def scatter_nd(op: str, wishes: Wishes) -> OneNode:
    """A ScatterND of some rows, none of them twice."""
    shape = wishes.shape()
    return node(op, wishes.data(shape), _indices(wishes, [[0]]), wishes.data((1, *shape[1:])))


@base("ScatterElements")
def scatter_elements(op: str, wishes: Wishes) -> OneNode:
    """A ScatterElements along the last axis, into no place twice."""
    shape = wishes.shape()
    axis = _along(wishes, shape, len(shape) - 1)
    places = np.arange(shape[axis])[::-1].reshape(
        [-1 if each == axis % len(shape) else 1 for each in range(len(shape))]
    )
    return node(op, wishes.data(shape), _indices(wishes, np.broadcast_to(places, shape)), wishes.data(shape), axis=axis)


@base("TopK")
def top(op: str, wishes: Wishes) -> OneNode:
    """A TopK without ties."""
    shape = wishes.shape(2)
    axis = _along(wishes, shape, len(shape) - 1)
    made = node(op, Operand(_different(wishes, shape)), fixed([3]), outputs=2, axis=axis)
    return replace(made, unordered=wishes.get("sorted", 1) == 0)


@base("OneHot")
def one_hot(op: str, wishes: Wishes) -> OneNode:
    """A OneHot of four classes."""
    return node(op, Operand(wishes.rng.integers(0, 4, (1, 8))), fixed(4), fixed([0, 1], "float32"))


@base("GridSample")
def grid_sample(op: str, wishes: Wishes) -> OneNode:
    """A GridSample inside of the image."""
    shape = wishes.shape()
    if len(shape) < 3:
        raise NotBuilt(f"rank {len(shape)} has no spatial axis")
    places = wishes.tensor((shape[0], *[6] * (len(shape) - 2), len(shape) - 2), dtype=np.dtype("float32"))
    return node(op, wishes.data(shape), Operand(np.tanh(places).astype(wishes.dtype)))


_ROIS = np.array([[0, 0, 10, 10], [2, 3, 20, 28], [8, 8, 31, 16], [5, 1, 14, 30]], np.float32)


@base("RoiAlign")
def roi_align(op: str, wishes: Wishes) -> OneNode:
    """A RoiAlign of four boxes on a map of half the image's size."""
    rois = Operand(_ROIS.astype(wishes.dtype))
    attributes: dict[str, Any] = {"output_height": 4, "output_width": 4, "spatial_scale": 0.5, "sampling_ratio": 2}
    batch = _indices(wishes, np.zeros(len(_ROIS)))
    return node(op, wishes.data(wishes.shape(size=16)), rois, batch, **attributes)


@base("MaxRoiPool")
def max_roi_pool(op: str, wishes: Wishes) -> OneNode:
    """A MaxRoiPool of four stored boxes."""
    rois = np.concatenate([np.zeros((len(_ROIS), 1), np.float32), _ROIS], axis=1)
    shape = wishes.shape(size=16)
    return node(op, wishes.data(shape), Operand(rois, constant=True), pooled_shape=[4, 4], spatial_scale=0.5)


@base("NonMaxSuppression")
def nms(op: str, wishes: Wishes) -> OneNode:
    """A NonMaxSuppression that keeps less than it may, its output declared as what it may keep."""
    corners = wishes.rng.uniform(0, 40, (1, 12, 2))
    boxes = np.concatenate([corners, corners + 12], axis=2).astype(np.float32)
    scores = wishes.rng.permutation(12).reshape(1, 1, 12).astype(np.float32) / 12
    most = wishes.number("max_output_boxes_per_class", 12)
    rows: Sizes | None = None if most < 1 else (min(most, 12), 3)
    if wishes.get("open_rows", False):
        rows = ("rows", 3)
    limits = (fixed([most]), fixed([0.3], "float32"), fixed([0.1], "float32"))
    return node(op, Operand(boxes), Operand(scores), *limits, declared=rows)


@base("NonZero")
def non_zero(op: str, wishes: Wishes) -> OneNode:
    """A NonZero, its output declared as what it may give out, or left open."""
    value = wishes.tensor(wishes.shape(2))
    columns = "columns" if wishes.get("open_rows", False) else value.size
    return node(op, Operand(value * (value > value.dtype.type(0))), declared=(value.ndim, columns))


@base("STFT")
def stft(op: str, wishes: Wishes) -> OneNode:
    """An STFT of a short signal."""
    window = np.hanning(16).astype(np.float32)
    return node(op, wishes.data((1, 64, 1)), fixed(8), Operand(window, constant=True), fixed(16))


@base("LSTM")
def lstm(op: str, wishes: Wishes) -> OneNode:
    """An LSTM of four steps."""
    weights = wishes.stored((1, 32, 8), scale=0.3), wishes.stored((1, 32, 8), scale=0.3)
    return node(op, wishes.data((4, 1, 8)), *weights, wishes.stored((1, 64)), hidden_size=8)


@base("Range")
def numbers(op: str, wishes: Wishes) -> OneNode:
    """A Range up to a fed number."""
    return node(op, fixed(0, "float32"), Operand(np.asarray(6, np.float32)), fixed(1, "float32"))


@base("ConstantOfShape")
def constant_of_shape(op: str, wishes: Wishes) -> OneNode:
    """A ConstantOfShape of a fed shape."""
    return node(op, Operand(np.array([2, 3], np.int64)))
