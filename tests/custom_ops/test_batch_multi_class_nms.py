"""BatchMultiClassNMS against what CANN says of it, written in numpy image by image."""

from __future__ import annotations

import numpy as np
import pytest

from custom_ops.playing import play, single
from graphsurgery.errors import ModelError
from graphsurgery.graph.model import Model


def suppressed(boxes: np.ndarray, scores: np.ndarray, threshold: float, most: int) -> list[int]:
    """Greedy NMS of one class, the lower index first among equal scores."""
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        one = boxes[index]
        for other in (boxes[each] for each in kept):
            width, height = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
            inside = max(width, np.float32(0)) * max(height, np.float32(0))
            areas = np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])
            if areas - inside > 0 and inside / (areas - inside) > np.float32(threshold):
                break
        else:
            kept.append(int(index))
    return kept[:most]


def reference(
    boxes: np.ndarray, scores: np.ndarray, score_threshold: float, iou_threshold: float, each: int, total: int
) -> tuple[np.ndarray, ...]:
    count, classes = scores.shape[0], scores.shape[2]
    out = np.zeros((count, total, 4), np.float16), *(np.zeros((count, total), np.float16) for _ in range(2))
    numbers = np.zeros(count, np.int32)
    for image in range(count):
        rows = []
        for label in range(classes):
            own = boxes[image, :, label if boxes.shape[2] > 1 else 0].astype(np.float32)
            for index in suppressed(own, scores[image, :, label].astype(np.float32), iou_threshold, each):
                rows.append((scores[image, index, label], label, own[index]))
        rows.sort(key=lambda row: -float(row[0]))  # stable: the lower class first
        for place, (score, label, box) in enumerate(rows[:total]):
            out[2][image, place] = label  # stays where the score is not enough
            if score > np.float16(score_threshold):
                out[0][image, place], out[1][image, place] = box, score
                numbers[image] += 1
    return (*out, numbers)


def drawn(
    random: np.random.Generator, images: int, count: int, classes: int, own: bool, kind: int
) -> dict[str, np.ndarray]:
    """Boxes and scores, with equal scores, boxes without an area and scores at the threshold."""
    shape = (images, count, classes if own else 1, 2)
    corner, side = random.integers(0, 40, shape), random.integers(0, 16, shape)
    scores = random.choice([0, 0.05, 0.1, 0.5, 0.5, 0.9], (images, count, classes))
    if kind % 2:
        scores = random.standard_normal((images, count, classes))
    boxes = np.concatenate([corner, corner + side], axis=-1)
    return {"boxes": boxes.astype(np.float16), "scores": scores.astype(np.float16)}


@pytest.mark.parametrize("domain", ["", "mmdeploy."])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("images", "classes"), [(1, 1), (1, 4), (2, 3)])
def test_keeps_what_cann_keeps(images: int, classes: int, own: bool, domain: str) -> None:
    random = np.random.default_rng([images, classes, own])
    for kind in range(8):
        opset, score, iou = (11, 13, 17, 21)[kind // 2], (0.05, 0.0)[kind % 2], (0.5, 0.7, 0.3, 0.5)[kind // 2]
        each, total = ((30, 20), (2, 50), (5, 5), (100, 100))[kind // 2]
        inputs = drawn(random, images, 30, classes, own, kind)
        options = {"score_threshold": score, "iou_threshold": iou, "max_size_per_class": each, "max_total_size": total}
        got = play(f"{domain}BatchMultiClassNMS", inputs, outputs=4, opset=opset, **options)
        wanted = reference(inputs["boxes"], inputs["scores"], score, iou, each, total)
        for name, one, other in zip(("boxes", "scores", "classes", "num"), got, wanted, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other, err_msg=f"{name} of draw {kind}")


OPTIONS = {"score_threshold": 0.5, "iou_threshold": 0.5, "max_size_per_class": 10, "max_total_size": 10}


def test_a_score_that_is_not_enough_keeps_its_class() -> None:
    boxes = np.array([[[[0, 0, 4, 4]], [[8, 8, 9, 9]]]], np.float16)
    scores = np.array([[[0.25, 0.5], [0.125, 1]]], np.float16)
    found, score, label, number = play("BatchMultiClassNMS", {"b": boxes, "s": scores}, outputs=4, **OPTIONS)
    assert score[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    assert label[0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert found[0, :2].tolist() == [[8, 8, 9, 9], [0, 0, 0, 0]]
    assert number.tolist() == [1]


def test_of_no_boxes_all_rows_are_zeros() -> None:
    none = {"b": np.zeros((1, 0, 1, 4), np.float16), "s": np.zeros((1, 0, 3), np.float16)}
    *found, number = play("BatchMultiClassNMS", none, outputs=4, **OPTIONS)
    assert not any(rows.any() for rows in found)
    assert number.tolist() == [0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_total_size": 1001}, "attribute 'max_total_size' is 1001; it needs 1 to 1000"),
        ({"transpose_box": 1}, "attribute 'transpose_box' is 1; it needs 0"),
        ({"image_size": [320, 320]}, "attribute 'image_size' is given, and only boxes in pixels are known here"),
    ],
)
def test_what_is_not_known_is_refused(change: dict[str, object], said: str) -> None:
    inputs = drawn(np.random.default_rng(0), 1, 4, 2, False, 0)
    with pytest.raises(ModelError, match=said):
        Model(single("BatchMultiClassNMS", inputs, 4, **(OPTIONS | change))).check("m")


def test_a_window_to_clip_to_is_refused() -> None:
    inputs = drawn(np.random.default_rng(0), 1, 4, 2, False, 0) | {"window": np.zeros((1, 4), np.float16)}
    with pytest.raises(ModelError, match="input 'clip_window' is given, and what it does is not known here"):
        Model(single("BatchMultiClassNMS", inputs, 4, **OPTIONS)).check("m")
