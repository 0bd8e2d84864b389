"""NonMaxSuppression of mmcv against its loop, written in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from custom_ops.playing import play


def reference(boxes: np.ndarray, scores: np.ndarray, threshold: float, offset: int) -> list[int]:
    one = np.float32(offset)
    areas = (boxes[:, 2] - boxes[:, 0] + one) * (boxes[:, 3] - boxes[:, 1] + one)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        gone = False
        for other in kept:
            width = min(boxes[index, 2], boxes[other, 2]) - max(boxes[index, 0], boxes[other, 0]) + one
            height = min(boxes[index, 3], boxes[other, 3]) - max(boxes[index, 1], boxes[other, 1]) + one
            inside = max(width, np.float32(0)) * max(height, np.float32(0))
            union = areas[index] + areas[other] - inside
            gone = gone or bool(union > 0 and inside / union > np.float32(threshold))
        if not gone:
            kept.append(int(index))
    return kept


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.7])
def test_keeps_what_mmcv_keeps(threshold: float, offset: int) -> None:
    random = np.random.default_rng(offset)
    for draw in range(7):  # 8 x 42 boxes each: 2016
        for kind in range(8):
            corner = random.integers(0, 30, (42, 2)) if kind % 2 else random.uniform(0, 30, (42, 2))
            side = random.integers(0, 12, (42, 2)) if kind % 2 else random.uniform(0, 12, (42, 2))
            boxes = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
            scores = random.choice([-1.0, 0.25, 0.5, 0.5, 2.0], 42) if kind < 4 else random.standard_normal(42)
            inputs = {"boxes": boxes, "scores": scores.astype(np.float32)}
            (got,) = play("mmcv.NonMaxSuppression", inputs, iou_threshold=threshold, offset=offset, opset=11 + draw)
            assert got.tolist() == reference(boxes, inputs["scores"], threshold, offset), f"draw {draw}, kind {kind}"


def test_of_no_boxes_none_is_kept() -> None:
    none = {"boxes": np.zeros((0, 4), np.float32), "scores": np.zeros(0, np.float32)}
    (got,) = play("mmcv.NonMaxSuppression", none, iou_threshold=0.5)
    assert got.shape == (0,)
