"""Sample images for the report: what is drawn on which picture, and that they stay small."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphsurgery.capture.samples import Sample
from graphsurgery.images.canvas import Canvas, CanvasImage
from graphsurgery.images.drawing import colour_of
from graphsurgery.images.preprocessing import Preprocessing
from graphsurgery.report.pictures import encode, sample_pictures

HEIGHT, WIDTH = 60, 80


def detections(*boxes: tuple[float, float, float, float], score: float = 0.9) -> dict[str, Any]:
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.ones(len(boxes), np.int64),
        "scores": np.full(len(boxes), score, np.float32),
    }


def sample(name: str, size: tuple[int, int] = (HEIGHT, WIDTH), **tensors: Any) -> Sample:
    given = {"input": np.full((3, HEIGHT, WIDTH), 0.5, np.float32), **tensors}
    return Sample(name, Path("nowhere"), None, *size, computed=given)


def detector(found: dict[str, Any]) -> Any:
    """Parts that find the same in every image, and keep what they are given."""
    seen: list[CanvasImage] = []

    def on_canvas(placed: CanvasImage) -> dict[str, Any]:
        seen.append(placed)
        return found

    manifest = SimpleNamespace(classes=("background", "circle"))
    canvas = Canvas(HEIGHT, WIDTH)
    return SimpleNamespace(canvas=canvas, manifest=manifest, on_canvas=on_canvas, seen=seen, postprocessing=None)


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_each_side_shows_its_own_detections() -> None:
    captured, computed = detections((10, 20, 30, 40)), detections((10, 20, 30, 40), (40, 20, 70, 50))
    (picture,) = sample_pictures([sample("1", **captured)], detector(computed))
    assert (picture.title, picture.found) == ("Sample 1", (1, 2))
    original, parts = pixels(picture.original), pixels(picture.parts)
    assert original.shape == parts.shape == (HEIGHT, WIDTH, 3)
    assert tuple(original[40, 20]) == tuple(parts[40, 20]) == colour_of(1)
    assert tuple(parts[50, 55]) == colour_of(1)
    assert tuple(original[50, 55]) == (128, 128, 128)


def test_only_the_part_of_the_canvas_that_the_image_fills_is_shown() -> None:
    parts = detector(detections())
    (picture,) = sample_pictures([sample("1", (30, 20), **detections())], parts)
    assert pixels(picture.original).shape == (60, 40, 3)
    assert (parts.seen[0].height, parts.seen[0].width, parts.seen[0].original) == (60, 40, (30, 20))


def test_detections_below_the_score_count_for_nothing() -> None:
    (picture,) = sample_pictures([sample("1", **detections((10, 20, 30, 40), score=0.4))], detector(detections()))
    assert picture.found == (0, 0)


def test_no_more_samples_are_drawn_than_asked_for() -> None:
    samples = [sample(str(n), **detections()) for n in range(9)]
    assert [picture.title for picture in sample_pictures(samples, detector(detections()), most=2)] == [
        "Sample 0",
        "Sample 1",
    ]
    assert len(sample_pictures(samples, detector(detections()))) == 4


@pytest.mark.parametrize(
    "given",
    [
        {"boxes": np.zeros((1, 4)), "labels": np.zeros(1)},
        {**detections(), "input": np.zeros((3, 7, 7), np.float32)},
        {**detections((1, 2, 3, 4)), "scores": np.zeros(3)},
    ],
)
def test_a_sample_of_another_form_is_left_out(given: dict[str, Any]) -> None:
    assert sample_pictures([sample("1", **given)], detector(detections())) == []


def test_a_sample_that_the_parts_find_no_boxes_in_by_name_is_left_out() -> None:
    assert sample_pictures([sample("1", **detections())], detector({"classes": np.zeros(3)})) == []


def test_masks_are_drawn_only_where_both_sides_have_them() -> None:
    with_masks = {**detections((10, 10, 60, 50)), "masks": np.ones((1, 1, 28, 28), np.float32)}
    (both,) = sample_pictures([sample("1", **with_masks)], detector(with_masks))
    (one,) = sample_pictures([sample("1", **with_masks)], detector(detections((10, 10, 60, 50))))
    assert tuple(pixels(both.original)[30, 35]) != (128, 128, 128)
    assert tuple(pixels(one.original)[30, 35]) == (128, 128, 128)


def test_masks_as_large_as_the_canvas_are_drawn_too_and_lie_on_the_image() -> None:
    masks = np.zeros((1, 1, HEIGHT, WIDTH), np.float16)
    masks[0, 0, 20:40, 35:60] = 1
    found = {**detections((35, 20, 60, 40)), "masks_pasted": masks}
    parts = detector(found)
    parts.canvas = Canvas(HEIGHT, WIDTH, image=Preprocessing(place="centre"))
    (picture,) = sample_pictures([sample("1", (30, 20), **found)], parts)
    assert pixels(picture.original).shape == (60, 40, 3)
    assert tuple(pixels(picture.original)[30, 20]) != (128, 128, 128) == tuple(pixels(picture.original)[30, 10])


@pytest.mark.parametrize("size", [(320, 256), (960, 544), (4000, 100), (100, 4000), (1, 1)])
def test_no_picture_is_too_large_for_the_page_even_of_noise(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    data = encode(Image.fromarray(noise))
    assert len(data) <= 150_000
    shown = Image.open(io.BytesIO(data))
    assert shown.width <= 640
    assert shown.width / shown.height == pytest.approx(size[0] / size[1], rel=0.1)


def test_a_plain_picture_stays_exact() -> None:
    plain = np.full((200, 300, 3), 77, np.uint8)
    data = encode(Image.fromarray(plain))
    assert data.startswith(b"\x89PNG")
    assert np.array_equal(pixels(data), plain)
