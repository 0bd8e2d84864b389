"""What the outputs of known exports look like."""

from __future__ import annotations

from typing import Any

import pytest

from graphsurgery.detections.guess import guess, missing_section
from graphsurgery.detections.presets import PRESETS

PYRAMID = {f"c{k}": (1, 810, 64 >> k, 64 >> k) for k in range(5)} | {
    f"b{k}": (1, 36, 64 >> k, 64 >> k) for k in range(5)
}


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"output0": (1, 84, 8400)}, "output0 [1, 84, 8400] looks like ultralytics, 80 classes"),
        ({"output0": (1, 5, "N")}, "output0 [1, 5, N] looks like ultralytics, 1 class"),
        ({"output0": (1, 300, 6)}, "output0 [1, 300, 6] looks like ultralytics_end2end"),
        ({"output0": (1, 56, 8400)}, "output0 [1, 56, 8400] looks like ultralytics_pose, 17 keypoints"),
        (
            {"output0": (1, 116, 8400), "output1": (1, 32, 160, 160)},
            "output0 [1, 116, 8400], output1 [1, 32, 160, 160] look like ultralytics_seg, 80 classes",
        ),
        ({"output0": (1, 39, 252), "output1": (1, 32, 24, 32)}, "look like ultralytics_seg, 3 classes"),
        ({"output": (1, 25200, 85)}, "output [1, 25200, 85] looks like yolov5, 80 classes"),
        (
            {"output": (1, 8400, 85)},
            "output [1, 8400, 85] looks like yolox (yolox_decoded with its grid inside), 80 cl",
        ),
        ({"logits": (1, 100, 92), "pred_boxes": (1, 100, 4)}, "detr, 91 classes (rtdetr, 92 classes, where"),
        ({"logits": (1, 300, 80), "pred_boxes": (1, 300, 4)}, "look like rtdetr, 80 classes"),
        ({"dets": (1, 300, 4), "labels": (1, 300, 91)}, "look like rfdetr, 91 classes"),
        ({"scores": (1, 3000, 21), "boxes": (1, 3000, 4)}, "look like ssd, 20 classes"),
        (PYRAMID, "c0 [1, 810, 64, 64], c1 [1, 810, 32, 32] and 8 more look like effdet, 90 classes"),
        ({"dets": ("b", "n", 5), "labels": ("b", "n")}, "dets [b, n, 5], labels [b, n] look like mmdet"),
        ({"dets": (1, None, 5), "labels": (1, None), "masks": (1, None, 64, 64)}, "1 more look like mmdet_mask"),
        ({"a": ("n", 4), "b": ("n",), "c": ("n", 1, 28, 28), "d": ("n",), "e": (2,)}, "look like detectron2_mask"),
        ({"a": ("n", 4), "b": ("n",), "c": ("n",), "d": (2,)}, "look like detectron2"),
        ({"a": ("n", 4), "b": ("n",), "c": ("n",), "d": ("n", 1, 28, 28)}, "look like maskrcnn_benchmark"),
        ({"q": (1, 100, 81), "m": (1, 100, 96, 96)}, "look like mask2former, 80 classes"),
        ({"boxes": ("n", 4), "labels": ("n",), "scores": ("n",), "masks": ("n", 1, 9, 9)}, "torchvision_mask"),
    ],
)
def test_known_exports(outputs: dict[str, Any], said: str) -> None:
    seen = guess(outputs, (640, 640))
    assert seen is not None
    assert said in seen
    preset = seen.partition(" like ")[2].partition(",")[0].partition(" ")[0]
    assert preset in PRESETS


@pytest.mark.parametrize(
    "outputs", [{"y": (1, 4, 30, 30)}, {"y": (1000,)}, {"y": None}, {"y": ()}, {"a": (3,), "b": (3,), "c": ()}, {}]
)
def test_what_is_no_detector(outputs: dict[str, Any]) -> None:
    assert guess(outputs) is None
    assert missing_section(outputs).endswith(f" {'look' if len(outputs) > 1 else 'looks'} like no preset")


def test_the_line_names_the_section() -> None:
    assert missing_section({"output0": (1, 84, 8400)}) == (
        "detections in the recipe says what the outputs of a network are: output0 [1, 84, 8400] looks like "
        "ultralytics, 80 classes"
    )
