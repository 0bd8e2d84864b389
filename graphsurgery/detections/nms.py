"""Which detections are the best, and which of those that overlap stay."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from graphsurgery.detections.views import Array

Indices = npt.NDArray[np.intp]


def best(scores: Array, count: int) -> Indices:
    """Return the places of the `count` highest scores, the highest first, equal ones in their order."""
    places = np.arange(len(scores))
    if len(scores) > count:  # sort no more than these, and what is equal to the last of them
        lowest = np.partition(scores, len(scores) - count)[len(scores) - count]
        places = np.flatnonzero(scores >= lowest)
    order: Indices = places[np.argsort(-scores[places], kind="stable")][:count]
    return order


def nms(boxes: Array, scores: Array, iou: float, labels: Array | None = None, maximum: int | None = None) -> Indices:
    """Return the boxes [N, 4] that stay, the best first: no better one of the same label overlaps them by above `iou`.

    Greedy, in float32, equal scores in their order: as `torchvision.ops.nms`, and with `labels` as `batched_nms`. No
    more than `maximum` are looked for.
    """
    boxes = boxes.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        left = np.argsort(-scores, kind="stable")
        kept: list[int] = []
        while len(left) and (maximum is None or len(kept) < maximum):
            first, left = left[0], left[1:]
            kept.append(int(first))
            sides = np.minimum(boxes[first, 2:], boxes[left, 2:]) - np.maximum(boxes[first, :2], boxes[left, :2])
            shared = sides.clip(min=0).prod(1)
            # the threshold is a double there, the quotient is not
            over = (shared / (areas[first] + areas[left] - shared)).astype(np.float64) > iou
            if labels is not None:
                over &= labels[left] == labels[first]
            left = left[~over]
    return np.array(kept, np.intp)
