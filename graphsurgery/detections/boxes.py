"""Boxes of any form as corners (x0, y0, x1, y1) in pixels of the canvas."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from graphsurgery.detections.activations import softmax
from graphsurgery.detections.pieces import Anchors, Boxes, Points, Unit
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.detections.views import Array
from graphsurgery.errors import InputError
from graphsurgery.images.placement import Placement, Size

Floats = npt.NDArray[np.float32]

_LARGEST_LOG = math.log(1000 / 16)  # torchvision's and detectron2's bound: no box grows beyond 62 times its anchor


def corners(section: Postprocessing, spec: Boxes, values: Array, which: Array, placed: Placement) -> Floats:
    """Return the boxes `which` of the rows `values` [N, 4 * bins], as corners in pixels of the canvas, [M, 4].

    Raises InputError where the rows are of another number than the points or anchors.
    """
    bins = spec.bins or 1
    if values.shape[1] != 4 * bins:
        asked = f"4 times {bins} bins" if spec.bins else "4"
        raise InputError(f"detections.boxes: has {values.shape[1]} columns; expected {asked}")
    around = _cells(section, len(values), placed.canvas, which)
    chosen = values[which].astype(np.float32)
    if spec.bins:
        # the mean of the distribution, as ultralytics' and GFL's DFL have it
        share = softmax(chosen.reshape(len(chosen), 4, bins), 2)
        chosen = (share * np.arange(bins, dtype=np.float32)).sum(2, dtype=np.float32)
    return _formed(spec, chosen, around, placed)


def _formed(spec: Boxes, values: Floats, around: Floats, placed: Placement) -> Floats:
    if spec.form == "deltas":
        return _from_anchors(spec, values, around)
    if spec.form == "yolox":
        # yolox/models/yolo_head.py, decode_outputs: (xy + grid) * stride, exp(wh) * stride
        stride = around[:, 2:3]
        centre, size = values[:, :2] * stride + around[:, :2], np.exp(values[:, 2:]) * stride
        return np.concatenate([centre - size / 2, centre + size / 2], 1)
    first: Array = values[:, :2]
    second: Array = values[:, 2:]
    if spec.form == "ltrb":
        scale = around[:, 2:3] if spec.unit == "strides" else _frame(spec.unit, placed)[0]
        return np.concatenate([around[:, :2] - first * scale, around[:, :2] + second * scale], 1)
    if spec.form == "yxyx":
        first, second = first[:, ::-1], second[:, ::-1]
    elif spec.form == "xywh":
        second = first + second
    elif spec.form == "cxcywh":
        half = second / 2
        first, second = first - half, first + half
    points = np.concatenate([first, second], 1).reshape(-1, 2, 2)
    return on_canvas(points, spec.unit, placed).reshape(-1, 4)


def on_canvas(points: Array, unit: Unit, placed: Placement) -> Floats:
    """Return positions [..., 2], x and y in `unit`, in pixels of the canvas."""
    scale, corner = _frame(unit, placed)
    return (points * scale + corner).astype(np.float32)


def _frame(unit: Unit, placed: Placement) -> tuple[Floats, Floats]:
    """Return how many pixels of the canvas a `unit` has along x and y, and where it counts from."""
    scale, corner = (1.0, 1.0), (0, 0)
    if unit == "relative":
        scale = (placed.canvas[1], placed.canvas[0])
    elif unit == "image_relative":
        scale, corner = (placed.width, placed.height), (placed.left, placed.top)
    elif unit == "image_pixels":
        height, width = placed.original
        scale, corner = (placed.width / width, placed.height / height), (placed.left, placed.top)
    return np.array(scale, np.float32), np.array(corner, np.float32)


def _from_anchors(spec: Boxes, values: Floats, anchors: Floats) -> Floats:
    """Undo what Faster R-CNN (arXiv 1506.01497, equation 2) makes of a box and its anchor."""
    deltas = values / np.array(spec.weights, np.float32)
    if spec.order == "yx":
        deltas = deltas[:, [1, 0, 3, 2]]
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + size / 2 + deltas[:, :2] * size
    half = np.exp(np.minimum(deltas[:, 2:], _LARGEST_LOG)) * size / 2
    return np.concatenate([centre - half, centre + half], 1)


def _cells(section: Postprocessing, count: int, canvas: Size, which: Array) -> Floats:
    """Return what the rows `which` of `count` lie around: a point with its stride [M, 3], an anchor [M, 4], or nothing.

    Raises InputError where the section makes another number of rows; nothing is made before that is known.
    """
    if section.points is not None:
        points = section.points
        _require(count, [_grid(stride, canvas) for stride in points.strides], 1, "points", canvas)
        return _points(points, canvas)[which]
    if section.anchors is None:
        return np.zeros((len(which), 0), np.float32)
    anchors = section.anchors
    if anchors.boxes:
        if len(anchors.boxes) != count:
            raise InputError(f"detections.anchors: has {len(anchors.boxes)} boxes; the network gives {count} rows")
        return np.array(anchors.boxes, np.float32)[which]
    per_cell = [len(level.sizes) for level in anchors.levels]
    _require(count, [_grid(level.stride, canvas) for level in anchors.levels], per_cell, "anchors", canvas)
    return _anchors(anchors, canvas)[which]


def _require(count: int, grids: Sequence[Size], per_cell: int | Sequence[int], place: str, canvas: Size) -> None:
    each = [per_cell] * len(grids) if isinstance(per_cell, int) else per_cell
    made = sum(rows * columns * times for (rows, columns), times in zip(grids, each, strict=True))
    if made != count:
        shown = " + ".join(f"{h} x {w} x {n}" if n > 1 else f"{h} x {w}" for (h, w), n in zip(grids, each, strict=True))
        raise InputError(
            f"detections.{place}: are {made} on the canvas {canvas[0]} x {canvas[1]} ({shown}); the network gives "
            f"{count} rows"
        )


def _grid(stride: int, canvas: Size) -> Size:
    return -(-canvas[0] // stride), -(-canvas[1] // stride)


def _centres(stride: int, offset: float, canvas: Size) -> Floats:
    """Return the point of each cell, x and y, row by row, [h * w, 2]."""
    rows, columns = (np.arange(edge, dtype=np.float32) for edge in _grid(stride, canvas))
    y, x = np.meshgrid((rows + offset) * stride, (columns + offset) * stride, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)


def _points(points: Points, canvas: Size) -> Floats:
    levels = []
    for stride in points.strides:
        centres = _centres(stride, points.offset, canvas)
        levels.append(np.concatenate([centres, np.full((len(centres), 1), stride, np.float32)], 1))
    return np.concatenate(levels)


def _anchors(anchors: Anchors, canvas: Size) -> Floats:
    levels = []
    for level in anchors.levels:
        half = np.array(level.sizes, np.float32)[None] / 2
        centres = _centres(level.stride, anchors.offset, canvas)[:, None]
        levels.append(np.concatenate([centres - half, centres + half], 2).reshape(-1, 4))
    return np.concatenate(levels)
