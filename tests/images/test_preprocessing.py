import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphsurgery.errors import InputError
from graphsurgery.images.canvas import Canvas
from graphsurgery.images.preprocessing import PLAIN, PRESETS, Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def laid_out(image: np.ndarray, canvas: tuple[int, int], preset: str, **more: Any) -> np.ndarray:
    """What the network reads of `image`, with `preset` and `more` over it."""
    whole = Canvas(*canvas, image=Preprocessing(**{**PRESETS[preset], **more}))
    return whole.image.apply(whole.fit(image).input)


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Half-pixel centres, clamped, nothing smoothed: what OpenCV's INTER_LINEAR and torch compute, not rounded."""
    for axis, target in enumerate(size):
        source = image.shape[axis]
        at = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
        low = np.floor(at).astype(int)
        high, weight = np.minimum(low + 1, source - 1), at - low
        shape = [-1 if each == axis else 1 for each in range(3)]
        image = np.take(image, low, axis) * (1 - weight.reshape(shape)) + np.take(image, high, axis) * weight.reshape(
            shape
        )
    return image


# Each expectation below is written from the library's code, which the preset names.


@pytest.mark.parametrize(("height", "width"), [(37, 61), (61, 37), (50, 50), (99, 20), (21, 100)])
def test_ultralytics_is_letterbox(height: int, width: int) -> None:
    image, canvas = picture(height, width), (64, 96)
    ratio = min(canvas[0] / height, canvas[1] / width)
    new = round(height * ratio), round(width * ratio)
    around = [(edge - size) / 2 for edge, size in zip(canvas, new, strict=True)]
    top, left = (round(each - 0.1) for each in around)
    assert [round(each + 0.1) for each in around] == [canvas[0] - new[0] - top, canvas[1] - new[1] - left]
    expected = np.full((*canvas, 3), 114.0)
    expected[top : top + new[0], left : left + new[1]] = bilinear(image.astype(np.float64), new)
    got = laid_out(image, canvas, "ultralytics")
    np.testing.assert_allclose(got, expected.transpose(2, 0, 1) / 255, atol=1e-5)


def test_yolox_is_its_preproc() -> None:
    image, canvas = picture(37, 61), (64, 96)
    ratio = min(64 / 37, 96 / 61)
    new = int(37 * ratio), int(61 * ratio)
    expected = np.full((*canvas, 3), 114.0)
    expected[: new[0], : new[1]] = bilinear(image[..., ::-1].astype(np.float64), new)
    np.testing.assert_allclose(laid_out(image, canvas, "yolox"), expected.transpose(2, 0, 1), atol=255e-5)


def test_effdet_is_resize_pad() -> None:
    image, canvas = picture(37, 61), (64, 64)
    scale = min(64 / 37, 64 / 61)
    new = int(37 * scale), int(61 * scale)
    whole = Image.new("RGB", canvas[::-1], (124, 116, 104))
    whole.paste(Image.fromarray(image).resize(new[::-1], Image.Resampling.BILINEAR))
    expected = (np.asarray(whole, np.float64) / 255 - MEAN) / STD
    np.testing.assert_allclose(laid_out(image, canvas, "effdet"), expected.transpose(2, 0, 1), atol=1e-5)


def test_rtdetr_is_stretched_by_pillow() -> None:
    image = picture(99, 40)
    expected = np.asarray(Image.fromarray(image).resize((48, 64), Image.Resampling.BILINEAR), np.float64) / 255
    np.testing.assert_allclose(laid_out(image, (64, 48), "rtdetr"), expected.transpose(2, 0, 1), atol=1e-5)


def ascends_script(image: np.ndarray, size: int) -> np.ndarray:
    """maskrcnn_pth_preprocess_detectron2.py: OpenCV reads blue first, scales to whole levels; zeros behind the mean."""
    height, width = image.shape[:2]
    scale = 800 / min(height, width)
    new = math.floor(height * scale), math.floor(width * scale)
    if max(new) > 1333:
        share = 1333 / max(new)
        new = int(new[0] * share + 0.5), int(new[1] * share + 0.5)
    resized = np.floor(bilinear(image[..., ::-1].astype(np.float32), new).astype(np.float32) + 0.5)
    network = np.zeros((3, size, size), np.float32)
    network[:, : new[0], : new[1]] = (resized - np.array([103.53, 116.28, 123.675], np.float32)).transpose(2, 0, 1)
    return network


@pytest.mark.parametrize(("height", "width"), [(480, 640), (385, 500), (640, 333), (57, 31), (235, 640), (1000, 1500)])
def test_detectron2_cv2_is_ascends_script(height: int, width: int) -> None:
    image = picture(height, width)
    network = laid_out(image, (1344, 1344), "detectron2_cv2", mean=(103.53, 116.28, 123.675))
    off = np.abs(network - ascends_script(image, 1344))
    # noise that lies within 0.02 of a half is rounded the other way, as `taps` has float32 positions like torch's
    assert (off > 1e-4).mean() < 1e-3
    assert off.max() < 1 + 1e-4


@pytest.mark.parametrize(
    ("size", "placed"), [((427, 640), (800, 1199)), ((235, 640), (490, 1333)), ((385, 500), (799, 1038))]
)
def test_two_steps_round_twice(size: tuple[int, int], placed: tuple[int, int]) -> None:
    wanted = Preprocessing(**PRESETS["detectron2_cv2"])
    assert wanted.placement(size, (1344, 1344))[:2] == placed  # in one step (490, 1333) is (489, 1333)


def test_two_steps_stay_on_a_small_canvas() -> None:
    wanted = Preprocessing(**PRESETS["detectron2_cv2"])
    assert wanted.placement((480, 640), (320, 320))[:2] == (240, 320)
    assert Preprocessing(rounding="down_then_half_up").placement((480, 640), (320, 320))[:2] == (240, 320)


@pytest.mark.parametrize("preset", ["mmdet", "detectron2"])
@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 480), (300, 1200)])
def test_edges_grow_to_the_shortest_and_the_longest(preset: str, height: int, width: int) -> None:
    canvas = Canvas(1344, 1344, image=Preprocessing(**PRESETS[preset]))
    placed = canvas.fit(picture(height, width))
    scale = min(800 / min(height, width), 1333 / max(height, width))
    assert (placed.height, placed.width) == (math.floor(height * scale + 0.5), math.floor(width * scale + 0.5))
    assert (placed.top, placed.left) == (0, 0)


def test_what_surrounds_the_image_is_zero_behind_the_mean() -> None:
    for preset in ("detr", "mmdet"):
        network = laid_out(picture(10, 20), (64, 64), preset, shortest=32)
        assert np.abs(network[:, 63]).max() < 1e-5
    network = laid_out(picture(10, 20), (64, 64), "detectron2", shortest=32)
    np.testing.assert_allclose(network[:, 63, 63], [103.53, 116.28, 123.675], atol=1e-4)


def test_edges_stay_on_the_canvas() -> None:
    placed = Canvas(64, 96, image=Preprocessing(**PRESETS["detr"])).fit(picture(480, 640))
    assert (placed.height, placed.width) == (64, 85)


def test_channels_range_and_mean_go_together() -> None:
    image = np.full((4, 4, 3), (255, 0, 51), np.uint8)
    got = Preprocessing(range=255, channels="BGR", mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 2.0))
    network = got.apply(Canvas(4, 4, image=got).fit(image).input)
    np.testing.assert_allclose(network[:, 0, 0], [25, -1, 126], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_every_pixel_of_an_image_survives(dtype: Any) -> None:
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    wanted = Preprocessing(resize="none", range=255, layout="NHWC", dtype=dtype)
    network = wanted.apply(Canvas(16, 16, image=wanted).fit(image).input)
    assert (network.dtype, network.shape) == (np.dtype(dtype), (16, 16, 3))
    np.testing.assert_array_equal(network.astype(np.int64), image)


@pytest.mark.parametrize("preset", PRESETS)
def test_boxes_and_keypoints_find_their_way_back(preset: str) -> None:
    canvas = Canvas(96, 128, image=Preprocessing(**PRESETS[preset]))
    placed = canvas.fit(picture(60, 50))
    scale = np.array([placed.width / 50, placed.height / 60], np.float32)
    corner = np.array([placed.left, placed.top], np.float32)
    points = np.array([[10, 20], [30, 45]], np.float32)
    on_canvas = points * scale + corner
    keypoints = np.concatenate([on_canvas, np.ones((2, 1), np.float32)], axis=1)[None]
    found = placed.restore({"boxes": on_canvas.reshape(1, 4), "keypoints": keypoints})
    np.testing.assert_allclose(found["boxes"].reshape(2, 2), points, atol=1e-4)
    np.testing.assert_allclose(found["keypoints"][0, :, :2], points, atol=1e-4)


def test_pasted_masks_lose_what_surrounds_the_image() -> None:
    canvas = Canvas(40, 60, image=Preprocessing(place="centre"))
    placed = canvas.fit(picture(20, 20))
    assert (placed.height, placed.width, placed.top, placed.left) == (40, 40, 0, 10)
    mask = np.zeros((1, 1, 40, 60), np.float32)
    mask[..., 10:50] = 1
    found = placed.restore({"boxes": np.zeros((1, 4), np.float32), "masks_pasted": mask})
    np.testing.assert_array_equal(found["masks"], np.ones((1, 1, 20, 20), np.float32))
    assert placed.filled.shape == (3, 40, 40)


def test_an_image_that_must_not_be_resized_may_not_be_larger_than_the_canvas() -> None:
    canvas = Canvas(8, 8, image=Preprocessing(resize="none"))
    assert canvas.fit(picture(5, 8)).height == 5
    with pytest.raises(InputError, match="9 x 8 is larger than the canvas"):
        canvas.fit(picture(9, 8))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_come_back_from_json(preset: str) -> None:
    own = Preprocessing(**PRESETS[preset])
    assert Preprocessing.from_json(own.to_json()) == own
    canvas = Canvas(8, 8, image=own)
    assert Canvas.from_json(canvas.to_json()) == canvas
    assert PLAIN.to_json() == {}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"resize": "squeeze"}, "image.resize is 'squeeze'; it is one of fit"),
        ({"range": 2}, "image.range is '2'"),
        ({"mean": [1, 2]}, "image.mean is"),
        ({"std": [1, 0, 1]}, "every value must be above 0"),
        ({"pad": "black"}, "image.pad is black"),
        ({"pad": 10**400}, "image.pad is 1000"),
        ({"resize": "stretch", "shortest": 800}, "image.shortest says how far an image that fits grows"),
        ({"shortest": 2**40}, "image.shortest is"),
        ({"dtype": "uint8"}, "dtype uint8 holds 0..255"),
        ({"colour": "RGB"}, "image: expected some of"),
        ([], "image: expected some of"),
        ({"dtype": ["uint8"]}, "image.dtype is"),
    ],
)
def test_what_can_not_be_is_refused(value: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Preprocessing.from_json(value)


@pytest.mark.parametrize("size", [(200, 300), (480, 640), (333, 777), (777, 333)])
@pytest.mark.parametrize("preset", ["detr", "rtdetr"])
def test_transformers_gives_the_same(preset: str, size: tuple[int, int]) -> None:
    """With the image processors themselves, where transformers is installed."""
    transformers = pytest.importorskip("transformers")
    image = np.kron(picture(size[0] // 9 + 1, size[1] // 9 + 1), np.ones((9, 9, 1), np.uint8))[: size[0], : size[1]]
    if preset == "detr":
        processor = transformers.DetrImageProcessorPil(size={"shortest_edge": 320, "longest_edge": 500})
        got = laid_out(image, (500, 500), preset, shortest=320, longest=500)
    else:
        processor = transformers.RTDetrImageProcessorPil(size={"height": 320, "width": 320})
        got = laid_out(image, (320, 320), preset)
    expected = processor(images=Image.fromarray(image), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(got[:, : expected.shape[1], : expected.shape[2]], expected, atol=1e-5)
    assert np.abs(got[:, expected.shape[1] :]).max(initial=0) < 1e-5
    assert np.abs(got[:, :, expected.shape[2] :]).max(initial=0) < 1e-5


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (45, 61), (120, 150)])
@pytest.mark.parametrize("network", ["zoo", "torchvision"])
def test_onnxruntime_riscv_pads_with_black_before_the_mean(network: str, height: int, width: int) -> None:
    image = Image.fromarray(picture(height, width))
    ratio = 60 / min(height, width)  # 800 there
    image = image.resize((int(ratio * width), int(ratio * height)), Image.Resampling.BILINEAR)
    padded = np.zeros((96, 96, 3), np.uint8)  # to a multiple of 32
    padded[: image.height, : image.width] = image
    if network == "zoo":
        expected = padded[..., ::-1] - np.array([102.9801, 115.9465, 122.7717])
        got = laid_out(picture(height, width), (96, 96), "onnxruntime_riscv", shortest=60)
    else:
        expected = (padded / 255 - MEAN) / STD
        own = {"range": 1, "channels": "RGB", "mean": MEAN, "std": STD}
        got = laid_out(picture(height, width), (96, 96), "onnxruntime_riscv", shortest=60, **own)
    np.testing.assert_allclose(got, expected.transpose(2, 0, 1), atol=1e-4)
