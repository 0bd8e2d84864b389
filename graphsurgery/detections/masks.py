"""Masks of any form as probabilities: small ones in their boxes, or pictures as large as the canvas."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import numpy as np
import numpy.typing as npt

from graphsurgery.detections.activations import activated
from graphsurgery.detections.pieces import Masks
from graphsurgery.detections.views import Array, axis_of_rows, find, whole
from graphsurgery.errors import InputError
from graphsurgery.images.placement import Size
from graphsurgery.images.resizing import resize, resized_window

# Pictures are kept in half precision: they are many, and cut at a half in the end.
_PICTURE = np.float16
_MOST_BYTES = 2**32
_AT_ONCE = 32  # masks that are summed in one product of matrices


def masks_of(
    spec: Masks,
    outputs: Mapping[str, Array],
    rows: Array,
    count: int,
    boxes: Array | None,
    labels: Array,
    canvas: Size,
) -> dict[str, Array]:
    """Return `masks` [M, 1, m, m] in their boxes, or `masks_pasted` [M, 1, H, W] on the canvas, of `rows` of `count`.

    Raises InputError that names the tensor where its shape doesn't fit, and for more pictures than memory holds.
    """
    name = find(spec.tensor, outputs, "masks")
    array = whole(outputs, spec.tensor, "masks")
    if spec.form == "prototypes":
        return {"masks_pasted": _of_prototypes(spec, array, name, outputs, rows, count, boxes, canvas)}
    small = _rows(array, name, count, rows, labels)
    if spec.form == "per_box":
        return {"masks": activated(small, spec.activation)[:, None]}
    if spec.form == "pasted":
        if small.shape[1:] != canvas:
            raise InputError(
                f"detections.masks: '{name}' {list(array.shape)} has masks of {small.shape[1]} x {small.shape[2]}; "
                f"pasted ones are as large as the canvas, {canvas[0]} x {canvas[1]}, and small ones have form per_box"
            )
        return {"masks_pasted": activated(small, spec.activation)[:, None]}
    pictures = _pictures(len(rows), canvas)
    for picture, mask in zip(pictures, small, strict=True):
        picture[0] = activated(resize(mask[None], canvas)[0], spec.activation)
    return {"masks_pasted": pictures}


def _rows(array: Array, name: str, count: int, rows: Array, labels: Array) -> Array:
    """Return the masks [M, m, m] of some rows; of those for each class the one of the label."""
    seen, axis = list(array.shape), axis_of_rows(array.shape, count)
    if axis:
        array = array[0]
    if array.ndim not in (3, 4) or len(array) != count or 0 in array.shape[1:]:
        raise InputError(
            f"detections.masks: '{name}' {seen}; expected one mask for each of {count} rows, "
            f"[{count}, m, m] or [{count}, 1, m, m]"
        )
    return array[rows] if array.ndim == 3 else of_labels(array, rows, labels, name)


def of_labels(masks: Array, rows: Array, labels: Array, name: str) -> Array:
    """Return of some rows of masks [N, C, m, m] those of the labels, [M, m, m]; where C is 1 they are of any label.

    Raises InputError that names the tensor where there is none of a label.
    """
    of_class = labels if masks.shape[1] > 1 else np.zeros(len(rows), np.intp)
    if len(of_class) and not 0 <= of_class.min() <= of_class.max() < masks.shape[1]:
        raise InputError(
            f"detections.masks: '{name}' {list(masks.shape)} has masks of {masks.shape[1]} classes, and a label is "
            f"{labels.max()}"
        )
    chosen: Array = masks[rows, of_class]
    return chosen


def _of_prototypes(
    spec: Masks,
    prototypes: Array,
    name: str,
    outputs: Mapping[str, Array],
    rows: Array,
    count: int,
    boxes: Array | None,
    canvas: Size,
) -> Array:
    """Return sums of prototypes, cut out by the boxes (YOLACT, arXiv 1904.02689, section 3.2)."""
    assert spec.coefficients is not None
    coefficients = spec.coefficients.rows(outputs, "masks.coefficients")
    planes = prototypes[0] if prototypes.ndim == 4 and len(prototypes) == 1 else prototypes
    if planes.ndim != 3 or len(planes) != coefficients.shape[1] or 0 in planes.shape:
        raise InputError(
            f"detections.masks: '{name}' {list(prototypes.shape)}; expected {coefficients.shape[1]} prototypes, "
            f"[1, {coefficients.shape[1]}, h, w], as there are coefficients"
        )
    if len(coefficients) != count or boxes is None:
        raise InputError(
            f"detections.masks.coefficients: are {len(coefficients)}; expected one row for each of {count}"
        )
    pictures = _pictures(len(rows), canvas)
    height, width = canvas
    chosen, flat = np.ascontiguousarray(coefficients[rows]), planes.reshape(len(planes), -1)
    blocks = (chosen[start : start + _AT_ONCE] @ flat for start in range(0, len(chosen), _AT_ONCE))
    for picture, box, mask in zip(pictures, boxes, chain.from_iterable(blocks), strict=True):
        if not np.isfinite(box).all():
            continue
        x0, x1 = (int(edge) for edge in np.rint(box[[0, 2]].clip(0, width)))
        y0, y1 = (int(edge) for edge in np.rint(box[[1, 3]].clip(0, height)))
        if x0 < x1 and y0 < y1:
            window = slice(y0, y1), slice(x0, x1)
            inside = resized_window(mask.reshape(1, *planes.shape[1:]), canvas, *window)
            picture[0][window] = activated(inside[0], spec.activation)
    return pictures


def _pictures(count: int, canvas: Size) -> npt.NDArray[np.float16]:
    taken = count * canvas[0] * canvas[1] * np.dtype(_PICTURE).itemsize
    if taken > _MOST_BYTES:
        raise InputError(
            f"detections.masks: {count} on the canvas take {taken} bytes; lower detections.maximum, or raise "
            "detections.score"
        )
    return np.zeros((count, 1, *canvas), _PICTURE)


def boxes_around(pictures: Array) -> npt.NDArray[np.float32]:
    """Return the boxes [M, 4] around what is above a half in masks [M, 1, H, W]; zeros where nothing is."""
    boxes = np.zeros((len(pictures), 4), np.float32)
    for box, picture in zip(boxes, pictures[:, 0], strict=True):
        inside = picture > 0.5
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def certainty(pictures: Array) -> npt.NDArray[np.float32]:
    """Return the mean probability inside of each mask [M, 1, H, W], 0 where nothing is above a half."""
    found = np.zeros(len(pictures), np.float32)
    for place, picture in enumerate(pictures[:, 0].astype(np.float32, copy=False)):
        inside = picture > 0.5
        found[place] = picture[inside].mean() if inside.any() else 0
    return found
