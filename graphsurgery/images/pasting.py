"""Pastes the masks of a network, one small map for each box, into pictures, as torchvision does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from graphsurgery.errors import InputError
from graphsurgery.images.resizing import blend, resize, taps

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def picture_masks(detections: Mapping[str, Array], size: tuple[int, int]) -> Iterator[Floats] | None:
    """Yield each mask of what restore(paste=False) gave in a picture of `size`: float32 [h,w] probabilities.

    None where there are no masks. Raises InputError when the shapes don't fit.
    """
    if "masks" in detections:
        return paste_masks(detections["masks"], detections["boxes"], size)
    if "masks_pasted" in detections:
        return scaled_masks(detections["masks_pasted"], size)
    return None


def paste_masks(masks: Array, boxes: Array, size: tuple[int, int]) -> Iterator[Floats]:
    """Yield each mask pasted into an empty picture of `size` (height, width): float32 [h,w] probabilities.

    `masks` are [M,1,m,m] as the network gives them, `boxes` [M,4] in the picture's pixels. Equal to
    torchvision's `paste_masks_in_image(padding=1)`, except that only the part inside the picture is computed:
    a box of any size costs no more than the picture, a box wholly outside (where torchvision may raise) gives
    an empty one, and so does a box that isn't finite. Raises InputError when the shapes don't fit.
    """

    def pictures() -> Iterator[Floats]:
        for mask, box in zip(padded, expanded, strict=True):
            picture = np.zeros(size, np.float32)
            _paste(mask, box, picture)
            yield picture

    padded, expanded = _padded(masks, corners(boxes))
    return pictures()


def paste_into(pictures: Floats, masks: Array, boxes: Array) -> None:
    """Write each mask into an empty picture of `pictures` [M,h,w]; for the rest see `paste_masks`."""
    for picture, mask, box in zip(pictures, *_padded(masks, corners(boxes)), strict=True):
        _paste(mask, box, picture)


def scaled_masks(masks: Array, size: tuple[int, int]) -> Iterator[Floats]:
    """Yield each of `masks` [M,1,H,W], which lie on a canvas, in a picture of `size`: float32 [h,w]."""
    for mask in masks:
        yield resize(mask.astype(np.float32), size)[0]


def corners(boxes: Array) -> Floats:
    """Return boxes [M,4] as float32. Raises InputError for another shape."""
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"detections: boxes have shape {boxes.shape}, expected [M,4]")
    return boxes.astype(np.float32)


def _padded(masks: Array, boxes: Floats) -> tuple[Floats, Floats]:
    """Masks with a border of one zero, [M,m+2,m+2], and boxes grown to fit (torchvision's expand_boxes)."""
    if masks.ndim != 4 or masks.shape[:2] != (len(boxes), 1) or 0 in masks.shape[2:]:
        raise InputError(f"detections: masks have shape {masks.shape}, expected [{len(boxes)},1,m,m] as boxes")
    padded = np.pad(masks[:, 0].astype(np.float32), ((0, 0), (1, 1), (1, 1)))
    scale = (masks.shape[3] + 2) / masks.shape[3]
    with np.errstate(over="ignore", invalid="ignore"):
        half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5) * np.float32(scale)
        centre = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
        return padded, np.concatenate([centre - half, centre + half], axis=1)


def _paste(mask: Floats, box: Floats, picture: Floats) -> None:
    """Write a padded mask into its grown box, both ends inclusive, truncated to whole pixels."""
    if not np.isfinite(box).all():
        return
    x0, y0, x1, y1 = (int(v) for v in box)
    height, width = picture.shape
    left, right, top, bottom = max(x0, 0), min(x1 + 1, width), max(y0, 0), min(y1 + 1, height)
    if left >= right or top >= bottom:
        return
    low, high, weight = taps(mask.shape[1], x1 - x0 + 1, left - x0, right - x0)
    wide = blend(mask[:, low], mask[:, high], weight)
    low, high, weight = taps(mask.shape[0], y1 - y0 + 1, top - y0, bottom - y0)
    picture[top:bottom, left:right] = blend(wide[low], wide[high], weight[:, None])
