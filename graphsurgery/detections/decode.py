"""From a network's outputs to detections on the canvas, as the section `detections` says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphsurgery.detections.activations import activated
from graphsurgery.detections.boxes import corners, on_canvas
from graphsurgery.detections.masks import boxes_around, certainty, masks_of
from graphsurgery.detections.nms import best, nms
from graphsurgery.detections.pieces import Keypoints
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.detections.views import Array, find
from graphsurgery.errors import InputError
from graphsurgery.images.placement import Placement

_MOST_SCORES = 2**28


@np.errstate(over="ignore", invalid="ignore")  # what isn't finite is no detection, or a box that is nowhere
def decode(section: Postprocessing, outputs: Mapping[str, Array], placed: Placement) -> dict[str, Array]:
    """Return the detections in `outputs`, which come by name in the order of the network, the best first.

    `placed` is how the image lies on the canvas. Boxes are [M, 4] float32 in pixels of the canvas, labels [M] int64,
    scores [M] float32; and where the section has any, `masks` [M, 1, m, m] or `masks_pasted` [M, 1, H, W] as
    probabilities, and `keypoints` [M, K, 3]. Raises InputError that names the output where its shape doesn't fit.
    """
    rows, labels, scores, count = _candidates(section, outputs)
    found: dict[str, Array] = {}
    boxes = None
    if section.boxes is not None:
        values = section.boxes.rows(outputs, "boxes")
        _require_rows("boxes", len(values), count)
        boxes = corners(section, section.boxes, values, rows, placed)
        if section.nms is not None:
            within = labels if section.nms.per_class else None
            kept = nms(boxes, scores, section.nms.iou, within, section.maximum)
            rows, labels, scores, boxes = rows[kept], labels[kept], scores[kept], boxes[kept]
    if section.masks is not None:
        found |= masks_of(section.masks, outputs, rows, count, boxes, labels, placed.canvas)
        pictures = found.get("masks_pasted", found.get("masks"))
        assert pictures is not None
        boxes = boxes_around(pictures) if boxes is None else boxes
        scores = scores * certainty(pictures) if section.masks.rescore else scores
    if section.keypoints is not None:
        found["keypoints"] = _keypoints(section.keypoints, outputs, rows, count, placed)
    assert boxes is not None
    found = {"boxes": boxes, "labels": labels, "scores": scores, **found}
    if section.masks is not None and section.masks.rescore:
        order = np.argsort(-scores, kind="stable")
        return {name: each[order] for name, each in found.items()}
    return found


def _candidates(section: Postprocessing, outputs: Mapping[str, Array]) -> tuple[Array, Array, Array, int]:
    """Return row, label and score of what is above the score, the best first, and the number of rows there are."""
    scores = activated(
        section.scores.rows(outputs, "scores", single=section.labels is not None), section.scores.activation
    )
    if scores.size > _MOST_SCORES:
        raise InputError(f"detections.scores: are {scores.size}, which no memory holds several times")
    count, first = len(scores), 0
    if section.background != "none":
        first = 1 if section.background == "first" else 0
        scores = scores[:, 1:] if first else scores[:, :-1]
    if not scores.shape[1] and count:
        raise InputError("detections.scores: has no column but the background's")
    if section.objectness is not None:
        objectness = section.objectness.rows(outputs, "objectness", single=True)
        _require_rows("objectness", len(objectness), count)
        scores = scores * activated(objectness, section.objectness.activation)
    most = section.maximum if section.nms is None else section.nms.candidates
    if section.multi_label:
        rows, labels = np.nonzero(scores > section.score)
        chosen = best(scores[rows, labels], most)
        rows, labels = rows[chosen], labels[chosen]
        return rows, labels + first, scores[rows, labels].astype(np.float32), count
    column = np.nan_to_num(scores, nan=-np.inf).argmax(1) if count else np.zeros(0, np.intp)
    highest = scores[np.arange(count), column] if count else np.zeros(0, np.float32)
    rows = np.flatnonzero(highest > section.score)
    rows = rows[best(highest[rows], most)]
    return rows, _labels(section, outputs, rows, column, count) + first, highest[rows].astype(np.float32), count


def _labels(section: Postprocessing, outputs: Mapping[str, Array], rows: Array, column: Array, count: int) -> Array:
    if section.labels is None:
        return column[rows].astype(np.int64)
    labels = section.labels.rows(outputs, "labels", single=True)
    _require_rows("labels", len(labels), count)
    chosen = labels[rows, 0]
    if not np.isfinite(chosen).all() or (np.abs(chosen) > 2**24).any():
        name = find(section.labels.tensors[0], outputs, "labels")
        raise InputError(f"detections.labels: '{name}' holds what is no label, {chosen[np.argmax(np.abs(chosen))]}")
    rounded: Array = np.rint(chosen).astype(np.int64)
    return rounded


def _keypoints(spec: Keypoints, outputs: Mapping[str, Array], rows: Array, count: int, placed: Placement) -> Array:
    """Return x, y and visibility of the keypoints of some rows, [M, K, 3]; 1 where the network has no visibility."""
    values = spec.points(outputs)
    _require_rows("keypoints", len(values), count)
    chosen = values[rows]
    points = np.ones((len(rows), spec.count, 3), np.float32)
    points[..., : spec.values] = chosen
    points[..., :2] = on_canvas(points[..., :2], spec.unit, placed)
    if spec.values == 3:
        points[..., 2] = activated(points[..., 2], spec.activation)
    return points


def _require_rows(place: str, seen: int, expected: int) -> None:
    if seen != expected:
        raise InputError(f"detections.{place}: has {seen} rows, scores have {expected}; both are of the same boxes")
