"""What numbers of boxes and keypoints are of: the canvas, or the image as it was before it was laid there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphsurgery.detections.decode import decode
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.errors import InputError
from graphsurgery.images.canvas import Canvas
from graphsurgery.images.placement import Placement
from graphsurgery.images.preprocessing import Preprocessing

SCORES = {"tensor": "s"}
# 30 x 40 pixels, once doubled; 5 rows lie above and below, 10 columns left and right of it
IMAGE = np.zeros((30, 40, 3), np.uint8)
CANVAS = Canvas(70, 100, image=Preprocessing(place="centre", longest=80))
BOX = np.array([4, 6, 24, 21], np.float32)  # in the image


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("image_pixels", BOX),
        ("image_relative", BOX / [40, 30, 40, 30]),
        ("pixels", BOX * 2 + [10, 5, 10, 5]),
        ("relative", (BOX * 2 + [10, 5, 10, 5]) / [100, 70, 100, 70]),
    ],
)
@pytest.mark.parametrize("form", ["xyxy", "yxyx", "xywh", "cxcywh"])
def test_a_box_in_any_unit_lies_at_its_place_on_the_image(unit: str, value: np.ndarray, form: str) -> None:
    low, high = value[:2], value[2:]
    written = {
        "xyxy": [*low, *high],
        "yxyx": [*low[::-1], *high[::-1]],
        "xywh": [*low, *(high - low)],
        "cxcywh": [*(low + high) / 2, *(high - low)],
    }[form]
    placed = CANVAS.fit(IMAGE)
    assert (placed.height, placed.width, placed.top, placed.left) == (60, 80, 5, 10)
    section = Postprocessing.from_json({"boxes": {"tensor": "b", "form": form, "unit": unit}, "scores": SCORES})
    outputs = {"b": np.array([[written]], np.float32), "s": np.array([[[0.9]]], np.float32)}
    found = decode(section, outputs, placed.placement)
    np.testing.assert_allclose(found["boxes"], [BOX * 2 + [10, 5, 10, 5]], atol=1e-4)
    np.testing.assert_allclose(placed.restore(found)["boxes"], [BOX], atol=1e-4)


@pytest.mark.parametrize(
    ("unit", "point"),
    [("image_pixels", [4, 6]), ("image_relative", [0.1, 0.2]), ("pixels", [18, 17]), ("relative", [0.18, 17 / 70])],
)
def test_so_does_a_keypoint(unit: str, point: list[float]) -> None:
    keypoints = {"tensor": "k", "count": 1, "unit": unit}
    section = Postprocessing.from_json({"boxes": {"tensor": "b"}, "scores": SCORES, "keypoints": keypoints})
    outputs = {name: np.zeros((1, 1, width), np.float32) for name, width in (("b", 4), ("k", 3), ("s", 1))}
    outputs |= {"k": np.array([[[*point, 0.5]]], np.float32), "s": np.ones((1, 1, 1), np.float32)}
    found = decode(section, outputs, CANVAS.fit(IMAGE).placement)
    np.testing.assert_allclose(found["keypoints"], [[[18, 17, 0.5]]], rtol=1e-6)


def test_no_box_is_found_in_any_unit() -> None:
    section = Postprocessing.from_json({"boxes": {"tensor": "b", "unit": "image_pixels"}, "scores": SCORES})
    outputs = {"b": np.zeros((1, 0, 4), np.float32), "s": np.zeros((1, 0, 2), np.float32)}
    assert decode(section, outputs, Placement.whole((8, 8)))["boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    "around",
    [
        {"form": "ltrb", "points": {"strides": [8]}},
        {"form": "yolox", "points": {"strides": [8]}},
        {"form": "deltas", "anchors": {"boxes": [[0, 0, 8, 8]]}},
    ],
)
@pytest.mark.parametrize("unit", ["image_pixels", "image_relative"])
def test_what_is_counted_from_the_canvas_is_in_no_unit_of_the_image(around: dict[str, Any], unit: str) -> None:
    boxes = {"tensor": "b", "form": around["form"], "unit": unit}
    rest = {key: value for key, value in around.items() if key != "form"}
    with pytest.raises(InputError, match=rf"detections\.boxes\.unit {unit} is of positions; form {around['form']}"):
        Postprocessing.from_json({"boxes": boxes, "scores": SCORES, **rest})
