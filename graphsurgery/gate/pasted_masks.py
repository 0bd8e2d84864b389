"""Pasted masks hang on their boxes: a box that is off by 0.0001 pixel moves a mask by a whole one.

torchvision pastes a mask into its grown box, whose corners it cuts to whole pixels: an edge at 60.00003 is one at 60,
an edge at 59.9998 is one at 59, and the mask is stretched by another factor. So what is off is held against the
captured mask pasted where the computed box says, if that box is within its tolerance. Seen on one of 14 images with
random weights (maskrcnn_resnet50_fpn, random:6), as 0.74 in 925 pixels, before any pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsurgery.gate.matched_rows import Alignment
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.images.pasting import paste_masks

Array = NDArray[Any]


def paste_anew(
    alignment: Alignment,
    reference: Mapping[str, Array],
    candidate: Mapping[str, Array],
    aside: Mapping[str, Array],
    tolerances: Tolerances,
) -> tuple[Array, Array]:
    """Return the paired rows of `Group.pasted`, captured and computed.

    A captured row that is off is replaced by its mask pasted at the computed box, where that is within the tolerance
    and explains all of it.
    """
    pasted, boxes = alignment.group.pasted, alignment.group.keys[0]
    assert pasted is not None
    captured, computed = alignment.select(pasted.name, reference[pasted.name], candidate[pasted.name])
    masks = aside.get(pasted.masks)
    if masks is None or captured.shape != computed.shape or captured.ndim != 4 or not captured.size:
        return captured, computed
    if masks.ndim != 4 or masks.shape[1] != 1 or len(masks) != len(reference[boxes]):
        return captured, computed
    allowed, _ = tolerances.lookup(pasted.name).allows(_peak(captured), floating=True)
    within, _ = tolerances.lookup(boxes).allows(_peak(reference[boxes]), floating=True)
    at, moved = alignment.select(boxes, reference[boxes], candidate[boxes])
    off = np.flatnonzero(
        (_apart(captured, computed) > allowed) & (_apart(at, moved) <= within) & (at != moved).any(axis=1)
    )
    masks, size = masks[alignment.match.reference[off]], (captured.shape[2], captured.shape[3])
    pictures = {row: picture[None] for row, picture in zip(off, paste_masks(masks, moved[off], size), strict=True)}
    explained = [row for row, picture in pictures.items() if np.abs(picture - computed[row]).max() <= allowed]
    if explained:
        captured = captured.copy()
        captured[explained] = [pictures[row] for row in explained]
    return captured, computed


def _peak(values: Array) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _apart(one: Array, other: Array) -> Array:
    """Return the largest difference in each row; NaN where one is not finite in the same way."""
    with np.errstate(invalid="ignore"):
        apart: Array = np.abs(one - other).reshape(len(one), -1).max(axis=1, initial=0.0)
    return apart
