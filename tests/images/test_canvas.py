"""The canvas and the way back, against torchvision's own transform and mask pasting."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from graphsurgery.errors import InputError
from graphsurgery.images.canvas import Canvas, CanvasImage
from graphsurgery.images.pasting import paste_masks, picture_masks
from graphsurgery.images.preprocessing import PLAIN, Preprocessing

from .scaled import HALF_ULP, assert_within, interpolated, noise, planar, rounding

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CANVAS = Canvas(96, 160, MEAN, STD)
SIZES = [
    (96, 160),
    (50, 80),
    (192, 320),
    (200, 90),
    (91, 333),
    (97, 161),
    (95, 159),
    (1, 1),
    (1, 40),
    (1, 500),
    (40, 1),
    (500, 1),
    (3, 7),
    (2, 2),
    (1080, 1920),
    (1333, 800),
]


@pytest.mark.parametrize("size", SIZES)
def test_fit_scales_as_interpolate_does(size: tuple[int, int]) -> None:
    placed = CANVAS.fit(noise(*size))
    inside = placed.input[:, : placed.height, : placed.width]
    expected = interpolated(planar(noise(*size)), (placed.height, placed.width))
    assert_within(inside, expected, rounding(size, (placed.height, placed.width)))


# On a canvas that is wider than high, torchvision's shorter and longer side are the canvas's only for images
# that are, too; and it can't scale below one pixel.
@pytest.mark.parametrize("size", [s for s in SIZES if s[0] <= s[1] and s != (1, 500)])
def test_fit_and_normalise_equal_torchvisions_transform(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    transform = pytest.importorskip("torchvision").models.detection.transform.GeneralizedRCNNTransform
    placed = CANVAS.fit(noise(*size))
    image = torch.from_numpy(planar(noise(*size))).double()
    images, _ = transform(96, 160, list(MEAN), list(STD), size_divisible=1)([image])
    assert images.image_sizes == [(placed.height, placed.width)]
    normalised = CANVAS.normalise(placed.input)[:, :, : placed.height, : placed.width]
    # mean, std, difference and quotient are rounded once each, of numbers below 1 before the division
    allowed = rounding(size, (placed.height, placed.width)) + 4 * HALF_ULP
    assert_within(normalised[0], images.tensors[0].numpy(), allowed / np.array(STD)[:, None, None])


@pytest.mark.parametrize("size", SIZES)
def test_the_fitted_image_touches_the_canvas_and_stays_inside(size: tuple[int, int]) -> None:
    height, width, top, left = CANVAS.image.placement(size, (96, 160))
    assert (top, left) == (0, 0)
    assert 1 <= height <= 96
    assert 1 <= width <= 160
    assert height >= 95 or width >= 159


def test_normalise_does_torchvisions_arithmetic_to_the_bit() -> None:
    torch = pytest.importorskip("torch")
    transform = pytest.importorskip("torchvision").models.detection.transform.GeneralizedRCNNTransform
    image = planar(noise(96, 160))
    expected = transform(96, 160, list(MEAN), list(STD)).normalize(torch.from_numpy(image))
    assert np.array_equal(CANVAS.normalise(image)[0], expected.numpy())


def test_padding_normalises_to_exactly_zero() -> None:
    placed = CANVAS.fit(noise(96, 50))
    normalised = CANVAS.normalise(placed.input)
    assert placed.width == 50
    assert not normalised[:, :, :, 50:].any()
    assert normalised.dtype == np.float32
    assert normalised.shape == (1, 3, 96, 160)


def test_a_canvas_without_normalisation_pads_with_zero_and_leaves_pixels_alone() -> None:
    canvas = CANVAS.with_normalisation(None, None)
    placed = canvas.fit(noise(96, 50))
    assert not placed.input[:, :, 50:].any()
    assert np.array_equal(canvas.normalise(placed.input)[0], placed.input)


def test_what_surrounds_an_image_stays_where_the_runtime_begins_to_normalise() -> None:
    graphs_own, runtimes = Canvas(96, 160), Canvas(96, 160).with_normalisation(MEAN, STD)
    image = noise(96, 50)
    assert np.array_equal(runtimes.fit(image).input, graphs_own.fit(image).input)
    assert np.array_equal(CANVAS.with_normalisation(MEAN, STD).fit(image).input, CANVAS.fit(image).input)


@pytest.mark.parametrize("own", [{"mean": MEAN}, {"std": STD}, {"layout": "NHWC"}, {"dtype": "float16"}])
def test_an_image_that_is_normalised_already_or_laid_out_in_another_way_is_refused(own: dict[str, Any]) -> None:
    canvas = Canvas(96, 160, image=Preprocessing(**own))
    with pytest.raises(InputError, match="image says that it wants others; leave out the pass"):
        canvas.with_normalisation(MEAN, STD)


def test_the_margin_of_a_canvas_is_zero_behind_the_normalisation() -> None:
    canvas = Canvas(90, 150).with_normalisation(MEAN, STD, (6, 10))
    placed = canvas.fit(noise(90, 150))
    normalised = canvas.normalise(placed.input)
    assert placed.input.shape == (3, 90, 150)
    assert normalised.shape == (1, 3, 96, 160)
    assert np.array_equal(normalised[:, :, :90, :150], Canvas(90, 150, MEAN, STD).normalise(placed.input))
    assert not normalised[:, :, 90:].any()
    assert not normalised[:, :, :, 150:].any()


def test_an_image_of_the_canvas_size_is_unchanged_to_the_bit() -> None:
    image = noise(96, 160)
    assert np.array_equal(CANVAS.fit(image).input, planar(image))
    assert np.array_equal(CANVAS.fit(planar(image)).input, planar(image))


def test_uint8_and_float_images_give_the_same_canvas_to_the_bit() -> None:
    image = noise(211, 301)
    assert np.array_equal(CANVAS.fit(image).input, CANVAS.fit(planar(image)).input)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 1), np.uint8),
        np.zeros((3, 5, 5), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((3, 5, 5), np.float64),
        np.zeros((1, 3, 5, 5), np.float32),
        np.zeros((0, 5, 3), np.uint8),
        np.full((3, 5, 5), 255, np.float32),
        np.full((3, 5, 5), np.nan, np.float32),
        np.full((3, 5, 5), -1, np.float32),
    ],
)
def test_fit_refuses_an_image_it_would_misread(image: Any) -> None:
    with pytest.raises(InputError, match="image: "):
        CANVAS.fit(image)


@pytest.mark.parametrize(
    "arguments",
    [
        (0, 5),
        (5, -1),
        (5.0, 5),
        (True, 5),
        (5, 5, MEAN, None),
        (5, 5, None, STD),
        (5, 5, MEAN, (1.0, 0.0, 1.0)),
        (5, 5, (1.0,), (1.0,)),
        (5, 5, (float("nan"), 0.0, 0.0), STD),
        (5, 5, MEAN, STD, PLAIN, (1, -1)),
        (5, 5, MEAN, STD, PLAIN, (1, 2.0)),
        (5, 5, MEAN, STD, PLAIN, (1,)),
        (5, 5, MEAN, STD, PLAIN, (0, 2**20)),
    ],
)
def test_an_impossible_canvas_is_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InputError, match="canvas: "):
        Canvas(*arguments)


@pytest.mark.parametrize("canvas", [CANVAS, Canvas(1, 2), Canvas(1, 2).with_normalisation(MEAN, STD, (3, 0))])
def test_a_canvas_survives_json(canvas: Canvas) -> None:
    assert Canvas.from_json(json.loads(json.dumps(canvas.to_json()))) == canvas


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"height": 5, "width": 5},
        {"height": "5", "width": 5, "mean": None, "std": None},
        {"height": 5, "width": 5, "mean": "abc", "std": [1, 1, 1]},
        {"height": 5, "width": 5, "mean": ["a", 0, 0], "std": [1, 1, 1]},
        {"height": 5, "width": 5, "mean": [10**400, 0, 0], "std": [1, 1, 1]},
        {"height": 5, "width": 5, "mean": [0, 0, 0], "std": [1, 1, 1], "margin": 3},
        {"height": 5, "width": 5, "mean": [0, 0, 0], "std": [1, 1, 1], "margin": [1, "a"]},
    ],
)
def test_from_json_refuses_what_is_no_canvas(value: object) -> None:
    with pytest.raises(InputError, match="canvas: "):
        Canvas.from_json(value)


def found(count: int, height: int, width: int) -> dict[str, Any]:
    """Detections in canvas pixels: boxes inside, across every edge, a point, and one reversed by a pixel."""
    rng = np.random.default_rng(count)
    boxes = rng.random((count, 4), dtype=np.float32) * (width, height, width, height)
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)
    extra = [
        (-20, -10, 30, 40),
        (width - 30, height - 20, width + 25, height + 9),
        (-7, -7, width + 7, height + 7),
        (5, 5, 5, 5),
        (9.5, 9.5, 8.7, 8.7),
        (0, 0, width, height),
    ]
    boxes = np.concatenate([boxes, np.array(extra)]).astype(np.float32)
    return {
        "boxes": boxes,
        "labels": np.arange(len(boxes)),
        "scores": rng.random(len(boxes), dtype=np.float32),
        "masks": rng.random((len(boxes), 1, 28, 28), dtype=np.float32),
        "keypoints": rng.random((len(boxes), 17, 3), dtype=np.float32) * 90,
    }


@pytest.mark.parametrize("size", [(96, 160), (480, 640), (333, 217), (40, 60), (1, 40), (40, 1)])
def test_restore_equals_torchvisions_postprocess(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    transform = pytest.importorskip("torchvision").models.detection.transform.GeneralizedRCNNTransform
    placed = CANVAS.fit(noise(*size))
    detections = found(12, placed.height, placed.width)
    restored = placed.restore(detections)
    doubled = detections | {"masks": detections["masks"].astype(np.float64)}  # see interpolated()
    expected = (
        transform(96, 160, list(MEAN), list(STD))
        .eval()
        .postprocess(
            [{name: torch.from_numpy(array) for name, array in doubled.items()}],
            [(placed.height, placed.width)],
            [size],
        )[0]
    )
    assert restored["masks"].shape == (18, 1, *size)
    assert set(restored) == set(expected)
    for name in ("boxes", "labels", "scores", "keypoints"):
        assert np.array_equal(restored[name], expected[name].numpy()), name
    # masks of 28 x 28 are read with a border of one: no position is beyond 30
    assert_within(restored["masks"], expected["masks"].numpy(), HALF_ULP * (2 * (30 + 30) + 7))


def test_restore_of_zero_detections_keeps_every_shape() -> None:
    placed = CANVAS.fit(noise(48, 80))
    restored = placed.restore({name: array[:0] for name, array in found(1, 96, 160).items()})
    assert {name: array.shape for name, array in restored.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "scores": (0,),
        "masks": (0, 1, 48, 80),
        "keypoints": (0, 17, 3),
    }


def iou(one: np.ndarray, other: np.ndarray) -> float:
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


@pytest.mark.parametrize("size", [(96, 160), (480, 640), (333, 217), (48, 80), (217, 333)])
def test_masks_that_lie_on_the_canvas_are_restored_as_those_of_the_network_are(size: tuple[int, int]) -> None:
    placed = CANVAS.fit(noise(*size))
    rows, columns = np.mgrid[:28, :28] - 13.5
    disc = (1 / (1 + np.exp((np.hypot(rows, columns) - 12) * 2))).astype(np.float32)
    boxes = np.array([[4, 6, 40, 46], [10, 20, 70, 60], [-9, -9, 30, 30]], np.float32)
    found = {"boxes": boxes, "masks": np.repeat(disc[None, None], 3, axis=0)}
    on_canvas = np.stack(list(paste_masks(found["masks"], boxes, (96, 160))))[:, None]
    expected = placed.restore(found)["masks"] > 0.5
    restored = placed.restore({"boxes": boxes, "masks_pasted": on_canvas})
    assert set(restored) == {"boxes", "masks"}
    assert (restored["masks"].shape, restored["masks"].dtype) == ((3, 1, *size), np.float32)
    assert min(iou(one, other) for one, other in zip(restored["masks"] > 0.5, expected, strict=True)) > 0.9
    later = placed.restore({"boxes": boxes, "masks_pasted": on_canvas}, paste=False)
    assert later["masks_pasted"].shape == (3, 1, placed.height, placed.width)
    masks = picture_masks(later, size)
    assert masks is not None
    np.testing.assert_array_equal(np.stack(list(masks))[:, None], restored["masks"])


def test_masks_on_the_canvas_may_be_bits() -> None:
    boxes = np.array([[0, 0, 80, 48]], np.float32)
    bits = np.zeros((1, 1, 96, 160), np.uint8)
    bits[:, :, :48, :80] = 1
    restored = CANVAS.fit(noise(192, 320)).restore({"boxes": boxes, "masks_pasted": bits})
    assert np.count_nonzero(restored["masks"] > 0.5) == 96 * 160
    assert restored["masks"].max() == 1


def test_no_masks_on_the_canvas_keep_their_shape() -> None:
    nothing = {"boxes": np.zeros((0, 4), np.float32), "masks_pasted": np.zeros((0, 1, 96, 160), np.float32)}
    assert CANVAS.fit(noise(48, 80)).restore(nothing)["masks"].shape == (0, 1, 48, 80)


def test_restore_leaves_the_detections_alone_and_drops_the_masks_of_the_canvas() -> None:
    detections = found(3, 96, 160)
    detections["masks_pasted"] = np.zeros((9, 1, 96, 160), np.float32)
    kept = {name: array.copy() for name, array in detections.items()}
    restored = CANVAS.fit(noise(200, 200)).restore(detections, paste=False)
    assert all(np.array_equal(detections[name], kept[name]) for name in kept)
    assert "masks_pasted" not in restored
    assert np.array_equal(restored["masks"], kept["masks"])


def test_restore_needs_no_masks() -> None:
    restored = CANVAS.fit(noise(192, 320)).restore({"boxes": np.array([[1, 2, 3, 4]], np.float32)})
    assert restored["boxes"].tolist() == [[2, 4, 6, 8]]
    assert set(restored) == {"boxes"}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("boxes", (2, 5)),
        ("boxes", (4,)),
        ("masks", (2, 28, 28)),
        ("masks", (1, 1, 28, 28)),
        ("masks_pasted", (2, 1, 28, 28)),
        ("masks_pasted", (1, 1, 96, 160)),
        ("keypoints", (2, 17)),
    ],
)
def test_restore_refuses_arrays_of_another_shape(name: str, shape: tuple[int, ...]) -> None:
    detections = {"boxes": np.zeros((2, 4), np.float32), name: np.zeros(shape, np.float32)}
    with pytest.raises(InputError, match=f"detections: {name} have shape"):
        CanvasImage(np.zeros((3, 96, 160), np.float32), 96, 160, (96, 160)).restore(detections)


def test_a_large_image_is_scaled_in_bounded_memory_and_time() -> None:
    image = np.broadcast_to(np.uint8(200), (6000, 8000, 3))
    tracemalloc.start()
    placed = CANVAS.fit(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6
    np.testing.assert_allclose(placed.input[:, : placed.height, : placed.width], 200 / 255, rtol=1e-6)
