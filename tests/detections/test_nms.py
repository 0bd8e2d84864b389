"""Suppression chooses what torchvision's does, ties included."""

from __future__ import annotations

import numpy as np
import pytest

from graphsurgery.detections.nms import best, nms


def crowd(seed: int, count: int = 400, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    corner, size = random.uniform(0, 90, (count, 2)), random.uniform(1, 60, (count, 2))
    boxes = np.concatenate([corner, corner + size], 1).astype(np.float32)
    scores = random.random(count).astype(np.float32)
    if ties:
        scores = np.round(scores, 1)
        boxes = (np.round(boxes / 16) * 16).astype(np.float32)  # many equal ones, and many without area
    return boxes, scores.astype(np.float32), random.integers(0, 5, count)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("iou", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_it_chooses_as_torchvision(iou: float, ties: bool) -> None:
    torch, ops = pytest.importorskip("torch"), pytest.importorskip("torchvision.ops")
    for seed in range(5):
        boxes, scores, labels = crowd(seed, ties=ties)
        given = [torch.from_numpy(each) for each in (boxes, scores, labels)]
        assert nms(boxes, scores, iou).tolist() == ops.nms(*given[:2], iou).tolist()
        # label by label, as batched_nms has it for many boxes: shifted by label, they would be rounded
        kept = torch.cat(
            [torch.where(given[2] == k)[0][ops.nms(*(e[given[2] == k] for e in given[:2]), iou)] for k in range(5)]
        )
        order = sorted(kept.tolist(), key=lambda row: (-scores[row], row))
        assert nms(boxes, scores, iou, labels).tolist() == order


def test_it_stops_at_the_maximum_and_takes_none() -> None:
    boxes, scores, labels = crowd(1)
    assert nms(boxes, scores, 0.5, labels, 7).tolist() == nms(boxes, scores, 0.5, labels).tolist()[:7]
    assert nms(boxes[:0], scores[:0], 0.5).tolist() == []


def test_boxes_that_are_not_finite_suppress_none() -> None:
    boxes = np.array([[0, 0, np.inf, 9], [np.nan, 0, 9, 9], [0, 0, 9, 9]], np.float32)
    assert nms(boxes, np.array([0.9, 0.8, 0.7], np.float32), 0.5).tolist() == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 13, 200, 500])
def test_the_best_are_those_of_a_stable_sort(count: int) -> None:
    scores = np.round(np.random.default_rng(3).random(200), 1).astype(np.float32)
    assert best(scores, count).tolist() == np.argsort(-scores, kind="stable")[:count].tolist()
