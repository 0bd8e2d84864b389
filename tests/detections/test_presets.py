"""Each preset reads known boxes out of outputs that are written here as the library's network gives them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from graphsurgery.detections.decode import decode
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.detections.presets import PRESETS, laid_under
from graphsurgery.errors import InputError
from graphsurgery.images.placement import Placement

HEIGHT, WIDTH, CLASSES = 128, 256, 3
CANVAS = (HEIGHT, WIDTH)
BOXES = np.array([[10, 20, 50, 100], [120, 8, 200, 72], [60.5, 30, 70, 45.25]], np.float32)
LABELS = np.array([2, 0, 1])
SCORES = np.array([0.9, 0.75, 0.6], np.float32)

Outputs = dict[str, np.ndarray]


def found(preset: str, outputs: Outputs, **over: Any) -> dict[str, np.ndarray]:
    return decode(Postprocessing.from_json(laid_under(PRESETS[preset], over)), outputs, Placement.whole(CANVAS))


def assert_found(got: dict[str, np.ndarray], labels: np.ndarray = LABELS, atol: float = 1e-3) -> None:
    np.testing.assert_allclose(got["boxes"], BOXES, atol=atol)
    assert got["labels"].tolist() == labels.tolist()
    assert got["labels"].dtype == np.int64
    np.testing.assert_allclose(got["scores"], SCORES, atol=1e-5)


def centres(boxes: np.ndarray = BOXES) -> np.ndarray:
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


def relative() -> np.ndarray:
    shares: np.ndarray = centres() / np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32)
    return shares


def one_hot(classes: int = CLASSES, labels: np.ndarray = LABELS) -> np.ndarray:
    scores = np.zeros((len(labels), classes), np.float32)
    scores[np.arange(len(labels)), labels] = SCORES
    return scores


def among(rows: np.ndarray, count: int, places: list[int], fill: float = 0.0) -> np.ndarray:
    """The rows at some places among `count`, the others filled."""
    spread = np.full((count, rows.shape[1]), fill, np.float32)
    spread[places] = rows
    return spread


def logit(share: np.ndarray) -> np.ndarray:
    clipped = np.clip(share.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.log(clipped / (1 - clipped)).astype(np.float32)


PLACES = [7, 14, 3]


def test_ultralytics() -> None:
    rows = among(np.concatenate([centres(), one_hot()], 1), 60, PLACES)
    assert_found(found("ultralytics", {"output0": rows.T[None]}))
    # a worse box in the same place goes, one of another class stays
    rows[20], rows[21] = rows[7], rows[7]
    rows[20, 4:], rows[21, 4:] = [0, 0, 0.5], [0, 0.5, 0]
    got = found("ultralytics", {"output0": rows.T[None]})
    assert got["labels"].tolist() == [2, 0, 1, 1]
    assert found("ultralytics", {"output0": rows.T[None]}, nms={"per_class": False})["labels"].tolist() == [2, 0, 1]
    assert found("ultralytics", {"output0": rows.T[None]}, nms=None)["labels"].tolist() == [2, 0, 1, 2, 1]


def test_ultralytics_end_to_end() -> None:
    rows = np.zeros((300, 6), np.float32)
    rows[:3] = np.concatenate([BOXES, SCORES[:, None], LABELS[:, None]], 1)
    assert_found(found("ultralytics_end2end", {"output0": rows[None]}))
    assert_found(found("ultralytics_end2end", {"output0": rows}))


def test_ultralytics_pose() -> None:
    random = np.random.default_rng(0)
    points = random.uniform(0, 100, (3, 17, 3)).astype(np.float32)
    points[..., 2] /= 100
    rows = among(np.concatenate([centres(), SCORES[:, None], points.reshape(3, 51)], 1), 60, PLACES)
    got = found("ultralytics_pose", {"output0": rows.T[None]})
    assert_found(got, np.zeros(3, int))
    np.testing.assert_array_equal(got["keypoints"], points)


def test_ultralytics_seg() -> None:
    """Prototype k is large in the k-th quarter of the width, and a row asks for one of them."""
    prototypes = np.full((1, 32, HEIGHT // 4, WIDTH // 4), -9, np.float32)
    for k in range(4):
        prototypes[0, k, :, k * 16 : k * 16 + 16] = 9
    coefficients = np.zeros((3, 32), np.float32)
    coefficients[[0, 1, 2], [0, 2, 1]] = 1
    rows = among(np.concatenate([centres(), one_hot(), coefficients], 1), 60, PLACES)
    got = found("ultralytics_seg", {"output0": rows.T[None], "output1": prototypes})
    assert_found(got)
    masks = got["masks_pasted"]
    assert masks.shape == (3, 1, HEIGHT, WIDTH)
    # the first is in the first quarter as a whole; the second's box reaches out of the third quarter on both sides
    assert (masks[0, 0] > 0.5).sum() == 40 * 80
    np.testing.assert_array_equal(
        (masks[1, 0] > 0.5)[8:72], np.tile(np.isin(np.arange(WIDTH), np.r_[128:192]), (64, 1))
    )
    assert not (masks[1, 0, 72:] > 0).any()
    assert not (masks[2, 0] > 0.5)[:, :64].any()


def test_prototypes_are_summed_and_scaled_as_torch_does() -> None:
    """ultralytics/utils/ops.py, process_mask_native: a sum of prototypes, scaled to the canvas, cut out by the box."""
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    prototypes = random.normal(size=(1, 32, HEIGHT // 4, WIDTH // 4)).astype(np.float32)
    coefficients = random.normal(size=(3, 32)).astype(np.float32)
    rows = among(np.concatenate([centres(), one_hot(), coefficients], 1), 60, PLACES)
    got = found("ultralytics_seg", {"output0": rows.T[None], "output1": prototypes})["masks_pasted"]
    sums = torch.einsum("mk,khw->mhw", torch.from_numpy(coefficients), torch.from_numpy(prototypes[0]))
    large = torch.nn.functional.interpolate(sums[None], CANVAS, mode="bilinear", align_corners=False)[0].sigmoid()
    for mask, expected, (x0, y0, x1, y1) in zip(got[:, 0], large.numpy(), np.rint(BOXES).astype(int), strict=True):
        inside = np.zeros(CANVAS, bool)
        inside[y0:y1, x0:x1] = True
        np.testing.assert_allclose(mask, np.where(inside, expected, 0), atol=1e-3)


@pytest.mark.parametrize("preset", ["yolov5", "yolox_decoded"])
def test_objectness_is_a_factor(preset: str) -> None:
    objectness = np.array([[0.95], [0.8], [0.9]], np.float32)
    rows = among(np.concatenate([centres(), objectness, one_hot() / objectness], 1), 60, PLACES)
    assert_found(found(preset, {"output": rows[None]}))


def test_yolox() -> None:
    """Rows are the cells of three levels; a box may lie in any of them."""
    cells = [(y, x, stride) for stride in (8, 16, 32) for y in range(HEIGHT // stride) for x in range(WIDTH // stride)]
    rows = np.zeros((len(cells), 8), np.float32)
    for place, (x, y, w, h), scores in zip([100, 540, 660], centres(), one_hot(), strict=True):
        row, column, stride = cells[place]
        rows[place] = [x / stride - column, y / stride - row, math.log(w / stride), math.log(h / stride), 1, *scores]
    assert_found(found("yolox", {"output": rows[None]}))
    with pytest.raises(
        InputError, match=r"points: are 672 on the canvas 128 x 256 \(16 x 32 \+ 8 x 16 \+ 4 x 8\); the net"
    ):
        found("yolox", {"output": rows[None, :-1]})


def test_distances_in_bins_of_one_level_a_tensor() -> None:
    """The head of YOLOv8 before its decoding, as accelerators are given it: [1, 4 * 16 + C, h, w] three times."""
    levels = {f"l{stride}": np.full((67, HEIGHT // stride, WIDTH // stride), -20.0) for stride in (8, 16, 32)}
    for (stride, row, column), box, label, score in zip(
        [(16, 3, 1), (32, 1, 5), (8, 4, 8)], BOXES, LABELS, SCORES, strict=True
    ):
        point = np.array([column + 0.5, row + 0.5] * 2)
        sides = (box / stride - point) * [-1, -1, 1, 1]
        for side, distance in enumerate(sides):
            low = int(distance)
            bins = levels[f"l{stride}"][side * 16 : side * 16 + 16, row, column]
            with np.errstate(divide="ignore"):
                bins[low], bins[low + 1] = np.maximum(np.log([low + 1 - distance, distance - low]), -50)
        levels[f"l{stride}"][64 + label, row, column] = logit(score)
    names = list(levels)
    over = {
        "boxes": {"tensor": names, "columns": [0, 64], "form": "ltrb", "unit": "strides", "bins": 16},
        "scores": {"tensor": names, "columns": [64], "activation": "sigmoid"},
        "points": {"strides": [8, 16, 32]},
    }
    assert_found(found("ultralytics", {name: each[None].astype(np.float32) for name, each in levels.items()}, **over))


def test_detr_has_no_object_last() -> None:
    logits = np.full((20, CLASSES + 1), -20.0)
    logits[:, -1] = 5
    logits[PLACES] = np.log(np.maximum(np.concatenate([one_hot(), 1 - SCORES[:, None]], 1), 1e-12))
    outputs = {"logits": logits[None].astype(np.float32), "pred_boxes": among(relative(), 20, PLACES)[None]}
    got = found("detr", outputs, score=0.5)
    assert_found(got)
    assert len(found("detr", outputs)["boxes"]) == 20


@pytest.mark.parametrize("preset", ["rtdetr", "dfine", "rfdetr"])
def test_relatives_of_detr_take_each_class_of_a_query(preset: str) -> None:
    scores = among(one_hot(), 20, PLACES)
    scores[PLACES[0], 0] = 0.3
    logits, boxes = logit(scores)[None], among(relative(), 20, PLACES)[None]
    outputs = {"dets": boxes, "labels": logits} if preset == "rfdetr" else {"logits": logits, "pred_boxes": boxes}
    got = found(preset, outputs, score=0.2)
    assert got["labels"].tolist() == [2, 0, 1, 0]
    np.testing.assert_array_equal(got["boxes"][3], got["boxes"][0])
    assert_found({name: each[:3] for name, each in got.items()})


def test_effdet() -> None:
    """Anchors written out one by one: level, row, column, octave, aspect."""
    scores = {
        s: np.full((1, 9 * CLASSES, max(HEIGHT // s, 1), WIDTH // s), -20, np.float32) for s in (8, 16, 32, 64, 128)
    }
    deltas = {s: np.zeros((1, 36, *each.shape[2:]), np.float32) for s, each in scores.items()}
    for (s, row, column, anchor), box, label, score in zip(
        [(16, 3, 2, 8), (32, 1, 5, 4), (8, 4, 7, 0)], centres(), LABELS, SCORES, strict=True
    ):
        octave, aspect = divmod(anchor, 3)
        size = 4 * s * 2 ** (octave / 3) * np.array([(1, 1), (1.4, 0.7), (0.7, 1.4)][aspect])
        x, y = (box[:2] - (np.array([column, row]) + 0.5) * s) / size
        w, h = np.log(box[2:] / size)
        deltas[s][0, anchor * 4 : anchor * 4 + 4, row, column] = y, x, h, w
        scores[s][0, anchor * CLASSES + label, row, column] = logit(score)
    outputs = {f"c{s}": each for s, each in scores.items()} | {f"b{s}": each for s, each in deltas.items()}
    assert_found(found("effdet", outputs, score=0.1))


def test_ssd_has_the_background_first() -> None:
    scores = among(np.concatenate([1 - SCORES[:, None], one_hot()], 1), 50, PLACES)
    boxes = among(BOXES / [WIDTH, HEIGHT, WIDTH, HEIGHT], 50, PLACES)
    assert_found(found("ssd", {"scores": scores[None], "boxes": boxes[None]}), LABELS + 1)


def test_a_list_of_anchors_with_variances_is_ssd_before_its_decoding() -> None:
    anchors = np.array([[0, 0, 32, 32], [100, 0, 200, 100], [50, 30, 80, 50], [5, 20, 45, 90]], np.float32)
    around = [3, 1, 2]
    deltas = among((centres() - centres(anchors[around])) / np.tile(centres(anchors[around])[:, 2:], 2), 4, around)
    deltas[around, 2:] = np.log(centres()[:, 2:] / centres(anchors[around])[:, 2:])
    outputs = {"scores": among(np.concatenate([1 - SCORES[:, None], one_hot()], 1), 4, around)[None]}
    outputs["boxes"] = deltas[None] / np.array([0.1, 0.1, 0.2, 0.2], np.float32)
    over = {
        "boxes": {"form": "deltas", "unit": "pixels", "weights": [10, 10, 5, 5]},
        "anchors": {"boxes": anchors.tolist()},
    }
    assert_found(found("ssd", outputs, **over), LABELS + 1)


def instances() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.random((3, 1, 28, 28)).astype(np.float32), (random.random((3, HEIGHT, WIDTH)) > 0.5).astype(
        np.float32
    )


def test_torchvision() -> None:
    _, pasted = instances()
    points = np.ones((3, 17, 3), np.float32)
    outputs = {"boxes": BOXES, "labels": LABELS, "scores": SCORES, "masks": pasted[:, None], "keypoints": points}
    assert_found(found("torchvision", outputs))
    got = found("torchvision_mask", outputs)
    assert_found(got)
    np.testing.assert_array_equal(got["masks_pasted"], pasted[:, None])
    np.testing.assert_array_equal(found("torchvision_keypoint", outputs)["keypoints"], points)


def test_detectron2_and_maskrcnn_benchmark() -> None:
    masks, _ = instances()
    size = np.array([HEIGHT, WIDTH])
    for preset, outputs in (
        ("detectron2", [BOXES, LABELS, SCORES, size]),
        ("detectron2_mask", [BOXES, LABELS, masks, SCORES, size]),
        ("maskrcnn_benchmark", [BOXES, LABELS, SCORES, masks]),
    ):
        got = found(preset, {str(place): each for place, each in enumerate(outputs)})
        assert_found(got)
        if "mask" in preset:
            np.testing.assert_array_equal(got["masks"], masks)


def test_masks_of_each_class_are_those_of_the_label() -> None:
    masks = np.random.default_rng(0).random((3, CLASSES, 28, 28)).astype(np.float32)
    outputs = {"boxes": BOXES, "classes": LABELS, "masks": masks, "scores": SCORES}
    got = found("detectron2_mask", outputs)["masks"]
    np.testing.assert_array_equal(got, masks[np.arange(3), LABELS][:, None])
    with pytest.raises(InputError, match=r"'masks' \[3, 2, 28, 28\] has masks of 2 classes, and a label is 2"):
        found("detectron2_mask", {**outputs, "masks": masks[:, :2]})


def test_mmdet() -> None:
    _, pasted = instances()
    dets = np.concatenate([BOXES, SCORES[:, None]], 1)[None]
    outputs = {
        "dets": np.pad(dets, ((0, 0), (0, 5), (0, 0))),
        "labels": np.pad(LABELS, (0, 5), constant_values=-1)[None],
    }
    assert_found(found("mmdet", outputs))
    outputs["masks"] = np.pad(pasted, ((0, 5), (0, 0), (0, 0)))[None]
    got = found("mmdet_mask", outputs)
    assert_found(got)
    np.testing.assert_array_equal(got["masks_pasted"], pasted[:, None])


def test_mask2former_has_masks_and_no_boxes() -> None:
    queries = np.full((1, 10, HEIGHT // 4, WIDTH // 4), -20, np.float32)
    logits = np.full((1, 10, CLASSES + 1), -20, np.float32)
    logits[..., -1] = 20
    boxes = [[8, 8, 40, 40], [80, 20, 160, 60], [200, 100, 256, 128]]
    for place, (x0, y0, x1, y1), label, score in zip([7, 4, 3], boxes, LABELS, SCORES, strict=True):
        queries[0, place, y0 // 4 : y1 // 4, x0 // 4 : x1 // 4] = 20
        logits[0, place, label], logits[0, place, -1] = np.log(score), np.log(1 - score)
    got = found("mask2former", {"class": logits, "masks": queries}, score=0.1)
    np.testing.assert_allclose(got["boxes"], boxes, atol=1)
    assert got["labels"].tolist() == LABELS.tolist()
    np.testing.assert_allclose(got["scores"], SCORES, atol=0.03)  # the borders are not certain
    # a mask that is nothing is worth nothing
    queries[0, 7] = -20
    again = found("mask2former", {"class": logits, "masks": queries}, score=0.1)
    assert again["labels"].tolist() == [0, 1, 2]
    assert (again["scores"][2], again["boxes"][2].tolist()) == (0, [0, 0, 0, 0])


def test_nothing_found_is_nothing_in_the_same_form() -> None:
    got = found("ultralytics", {"output0": np.zeros((1, 7, 60), np.float32)})
    assert {name: each.shape for name, each in got.items()} == {"boxes": (0, 4), "labels": (0,), "scores": (0,)}
    got = found("mmdet", {"dets": np.zeros((1, 0, 5)), "labels": np.zeros((1, 0), np.int64)})
    assert got["boxes"].shape == (0, 4)


def test_scores_that_are_no_numbers_are_no_detections() -> None:
    rows = among(np.concatenate([centres(), one_hot()], 1), 60, PLACES)
    rows[50, 4:] = np.nan
    assert_found(found("ultralytics", {"output0": rows.T[None]}))
    assert_found(found("ultralytics", {"output0": rows.T[None]}, multi_label=False))
