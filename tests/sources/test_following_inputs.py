"""Detectors that are told of each image: its size, its scale, where it lies. From the recipe to AP.

What they find is computed here once more, in NumPy, from the pixels of the images. These are of one colour each, so
that nobody has to scale them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Cli
from numpy.typing import NDArray
from PIL import Image

import graphsurgery
from graphsurgery.capture.samples import Capture
from graphsurgery.testing import parse

Array = NDArray[Any]

CANVAS = (32, 48)
COLOURS = [(250, 30, 60), (20, 200, 90), (90, 40, 240), (130, 120, 20), (200, 210, 60)]
SIZES = [(32, 48), (64, 48), (16, 72), (30, 30), (100, 70)]  # height, width

# Paddle's: boxes on the image as it lies on the canvas, divided by the scale
PADDLE = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 2] im_shape, float[n, 3, 32, 48] image, float[1, 2] scale_factor)
    => (float[1, 2, 4] boxes, float[1, 2, 2] scores)
    <int64[4] twice = {1, 0, 1, 0}, int64[3] rows = {1, 2, 6}, int64[1] zero = {0}, int64[1] four = {4},
     int64[1] six = {6}, int64[1] last = {2}> {
        found = Conv (image, k)
        kept = Sigmoid (found)
        row = Reshape (kept, rows)
        share = Slice (row, zero, four, last)
        scores = Slice (row, four, six, last)
        size = Gather <axis = 1> (im_shape, twice)
        scale = Gather <axis = 1> (scale_factor, twice)
        placed = Mul (share, size)
        boxes = Div (placed, scale) }"""

# RT-DETR's: the boxes that score best of all queries, in pixels of the image, whose width comes first
RTDETR = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[n, 3, 32, 48] images, int64[n, 2] orig_target_sizes)
    => (int64[n, k] labels, float[n, k, 4] boxes, float[n, k] scores)
    <int64[3] rows = {-1, 2, 6}, int64[2] flat = {-1, 4}, int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4},
     int64[1] six = {6}, int64[1] last = {2}, int64 classes = {2}, int64[3] times = {1, 1, 2}, int64[1] one = {1},
     int64[3] wide = {1, 1, 4}, int64[1] best = {2}, float half = {0.5}> {
        found = Conv (images, k)
        row = Reshape (found, rows)
        share_ = Slice (row, zero, four, last)
        share = Sigmoid (share_)
        logits = Slice (row, four, six, last)
        centre = Slice (share, zero, two, last)
        edges = Slice (share, two, four, last)
        reach = Mul (edges, half)
        low = Sub (centre, reach)
        high = Add (centre, reach)
        corners = Concat <axis = 2> (low, high)
        size = Cast <to = 1> (orig_target_sizes)
        size_ = Unsqueeze (size, one)
        sizes = Tile (size_, times)
        all_boxes = Mul (corners, sizes)
        probability = Sigmoid (logits)
        listed = Reshape (probability, flat)
        scores, place = TopK <axis = 1> (listed, best)
        labels = Mod (place, classes)
        query = Div (place, classes)
        query_ = Unsqueeze (query, last)
        index = Tile (query_, wide)
        boxes = GatherElements <axis = 1> (all_boxes, index) }"""

# DETR's: what surrounds the image doesn't count, and boxes are shares of the image, not of the canvas
DETR = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[n, 3, 32, 48] pixel_values, int64[n, h, w] pixel_mask)
    => (float[n, 2, 4] pred_boxes, float[n, 2, 2] logits)
    <int64[3] rows = {-1, 2, 6}, int64[1] zero = {0}, int64[1] four = {4}, int64[1] six = {6}, int64[1] last = {2},
     int64[1] one = {1}> {
        map = Unsqueeze (pixel_mask, one)
        mask = Cast <to = 1> (map)
        seen = Mul (pixel_values, mask)
        found = Conv (seen, k)
        row = Reshape (found, rows)
        share = Slice (row, zero, four, last)
        pred_boxes = Sigmoid (share)
        logits = Slice (row, four, six, last) }"""


def kernel() -> Array:
    weights = np.random.default_rng(5).normal(size=(12, 3, *CANVAS)) * 0.02
    return (weights + np.random.default_rng(6).normal(size=(12, 3, 1, 1)) * 1e-3).astype(np.float32)


def sigmoid(values: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-values)))


def queries(colour: tuple[int, int, int], height: int, width: int, top: int = 0, left: int = 0) -> Array:
    """Return what the last layer of all gives [2, 6] for an image of one colour that fills so much of the canvas."""
    canvas = np.zeros((3, *CANVAS))
    canvas[:, top : top + height, left : left + width] = (np.array(colour) / 255)[:, None, None]
    return np.asarray((kernel().astype(np.float64) * canvas).sum((1, 2, 3)).reshape(2, 6))


def fitted(size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of an image on the canvas, its aspect kept."""
    scale = min(CANVAS[0] / size[0], CANVAS[1] / size[1])
    return int(size[0] * scale), int(size[1] * scale)


def paddle(colour: tuple[int, int, int], size: tuple[int, int]) -> list[tuple[int, float, list[float]]]:
    """Return label, score and corners in the image, the best first; on the canvas it lies top left."""
    return best_of_each(queries(colour, *fitted(size)), size)


def detr(colour: tuple[int, int, int], size: tuple[int, int]) -> list[tuple[int, float, list[float]]]:
    """Return the same where the image lies in the middle; half a pixel more is below, and right of it."""
    height, width = fitted(size)
    return best_of_each(queries(colour, height, width, (CANVAS[0] - height) // 2, (CANVAS[1] - width) // 2), size)


def best_of_each(raw: Array, size: tuple[int, int]) -> list[tuple[int, float, list[float]]]:
    """Return the better class of each query."""
    found = []
    for row in sigmoid(raw):
        cx, cy, w, h = row[:4] * [size[1], size[0], size[1], size[0]]  # shares of the image
        found.append((int(row[4:].argmax()), float(row[4:].max()), [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]))
    return sorted(found, key=lambda each: -each[1])


def rtdetr(colour: tuple[int, int, int], size: tuple[int, int]) -> list[tuple[int, float, list[float]]]:
    """Return the same for two of the four pairs of query and class; the image is stretched over the canvas."""
    found = []
    for row in sigmoid(queries(colour, *CANVAS)):
        cx, cy, w, h = row[:4] * [size[1], size[0], size[1], size[0]]
        found += [(c, float(row[4 + c]), [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) for c in (0, 1)]
    return sorted(found, key=lambda each: -each[1])[:2]


@dataclass(frozen=True)
class Case:
    """A network, its recipe, and what it finds in an image of one colour."""

    network: str
    recipe: str
    expected: Callable[[tuple[int, int, int], tuple[int, int]], list[tuple[int, float, list[float]]]]
    rules: Mapping[str, Any]


CASES = {
    "paddle": Case(
        PADDLE,
        """\
source:
  onnx: net.onnx
  inputs: {im_shape: [resized_height, resized_width], scale_factor: [scale_y, scale_x]}
detections:
  boxes: {tensor: boxes, form: cxcywh, unit: image_pixels}
  scores: {tensor: scores}
  classes: [a, b]
capture: {images: photos, samples: 5}
passes: [{freeze-shapes: {batch: 1}}, simplify]
partition: {at: {tensors: [found]}, parts: {net: npu, post: cpu}}
variants: {int8: {part_passes: {post: [quantize]}}}
check: {tolerance: {boxes: 1.0e-3}, grant: {quantize: {"*": {sqnr: 15}}}}
""",
        paddle,
        {"im_shape": ["resized_height", "resized_width"], "scale_factor": ["scale_y", "scale_x"]},
    ),
    "rtdetr": Case(
        RTDETR,
        """\
source: {onnx: net.onnx, inputs: {orig_target_sizes: [width, height]}}
image: rtdetr
detections:
  boxes: {tensor: boxes, unit: image_pixels}
  scores: {tensor: scores}
  labels: {tensor: labels}
  classes: [a, b]
capture: {images: photos, samples: 5}
passes: [{freeze-shapes: {batch: 1}}, fold-constants]
check: {tolerance: {boxes: 1.0e-3}}
""",
        rtdetr,
        {"orig_target_sizes": ["width", "height"]},
    ),
    "detr": Case(
        DETR,
        """\
source: {onnx: net.onnx, inputs: {pixel_mask: mask}}
image: {place: centre, pad: 114}
detections:
  boxes: {tensor: pred_boxes, form: cxcywh, unit: image_relative}
  scores: {tensor: logits, activation: sigmoid}
  classes: [a, b]
capture: {images: photos, samples: 5}
passes: [{freeze-shapes: {batch: 1}}]
""",
        detr,
        {"pixel_mask": "mask"},
    ),
}
FOUR = CASES["rtdetr"].recipe.replace("onnx: net.onnx", "onnx: net.onnx, batch: 4")
CASES["rtdetr, four at once"] = replace(
    CASES["rtdetr"], recipe=FOUR.replace("{freeze-shapes: {batch: 1}}", "freeze-shapes")
)


@dataclass(frozen=True)
class Applied:
    """What `apply` made of a case, in `folder`; `parts` are its parts."""

    case: Case
    folder: Path
    parts: Path


def photos(folder: Path, case: Case) -> None:
    """Write images of five sizes, and COCO annotations of what is found in them."""
    (folder / "photos").mkdir()
    images, annotations = [], []
    for number, (colour, (height, width)) in enumerate(zip(COLOURS, SIZES, strict=True), start=1):
        Image.new("RGB", (width, height), colour).save(folder / "photos" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        for label, _, (x0, y0, x1, y1) in case.expected(colour, (height, width)):
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            annotations.append(box | {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1})
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module", params=CASES)
def applied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Applied:
    case, folder = CASES[request.param], tmp_path_factory.mktemp("detector")
    model = parse(case.network)
    model.graph.initializer.append(onnx.numpy_helper.from_array(kernel(), "k"))
    onnx.save(model, folder / "net.onnx")
    photos(folder, case)
    (folder / "net.yaml").write_text(case.recipe, encoding="utf-8")
    outcome = cli("apply", folder / "net.yaml", "--out", folder / "parts", "--model-io", folder / "model_io")
    assert outcome.code == 0, outcome.err
    return Applied(case, folder, folder / "parts")


def assert_found(found: list[dict[str, Any]], applied: Applied, number: int) -> None:
    expected = applied.case.expected(COLOURS[number], SIZES[number])
    assert [each["label"] for each in found] == [label for label, _, _ in expected]
    np.testing.assert_allclose([each["score"] for each in found], [score for _, score, _ in expected], atol=1e-4)
    np.testing.assert_allclose([each["box"] for each in found], [box for _, _, box in expected], atol=2e-2)


def test_boxes_are_those_of_numpy_on_images_of_any_size(applied: Applied, cli: Cli) -> None:
    names = [f"{number}.png" for number in range(1, 6)]
    images = [argument for name in names for argument in ("--image", applied.folder / "photos" / name)]
    one_by_one = cli("run", applied.parts, *images, "--json", "-")
    overlapping = cli("run", applied.parts, *images, "--json", "-", "--pipeline", 2)
    for outcome in (one_by_one, overlapping):
        assert outcome.code == 0, outcome.err
        for number, image in enumerate(json.loads(outcome.out)["images"]):
            assert_found(image["detections"], applied, number)


def test_in_python_no_recipe_is_needed(applied: Applied, tmp_path: Path) -> None:
    moved = shutil.copytree(applied.parts, tmp_path / "elsewhere")
    detector = graphsurgery.load(moved)
    assert detector.manifest.inputs == applied.case.rules
    for number, (colour, size) in enumerate(zip(COLOURS, SIZES, strict=True)):
        found = detector(np.full((*size, 3), colour, np.uint8))
        listed = [
            {"label": int(label), "score": float(score), "box": box.tolist()}
            for label, score, box in zip(found["labels"], found["scores"], found["boxes"], strict=True)
        ]
        assert_found(listed, applied, number)


def test_the_samples_hold_them(applied: Applied) -> None:
    for sample in Capture.open(applied.folder / "model_io").samples:
        height, width = fitted((sample.height, sample.width))
        words = {
            **{"height": sample.height, "width": sample.width},
            **{"resized_height": height, "resized_width": width},
            **{"scale_y": height / sample.height, "scale_x": width / sample.width},
        }
        for name, rule in applied.case.rules.items():
            if rule == "mask":
                assert sample.load(name).sum() == height * width
                continue
            rows = 4 if "batch: 4" in applied.case.recipe else 1
            np.testing.assert_allclose(sample.load(name), [[words[word] for word in rule]] * rows, rtol=1e-6)


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_is_lost(applied: Applied, cli: Cli, tmp_path: Path, workers: int) -> None:
    pytest.importorskip("pycocotools")
    outcome = cli(
        *("evaluate", applied.parts, "--images", applied.folder / "photos", "--workers", workers),
        *("--annotations", applied.folder / "truth.json", "--json", "-", "--out", tmp_path),
        *("--weights", applied.folder / "net.onnx"),
    )
    assert outcome.code == 0, outcome.err
    ap = json.loads(outcome.out)["ap"]["bbox"]
    assert ap["original"] == ap["parts"] == pytest.approx(1)


def test_other_commands_feed_them_too(applied: Applied, cli: Cli, tmp_path: Path) -> None:
    bench = cli("bench", applied.parts, "--runs", 2, "--pipeline", 1)
    assert bench.code == 0, bench.err
    raw = cli("run", applied.parts, "--image", applied.folder / "photos" / "2.png", "--raw", "--out", tmp_path / "raw")
    assert raw.code == 0, raw.err
    same = cli("check", applied.folder / "model_io", applied.parts)
    assert same.code == 0, same.err
    assert "<img" in (applied.parts / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": {"orig_target_sizes": ["width", "hight"]}}, "'hight' is none of canvas, .* Did you mean 'height'"),
        ({"inputs": {"orig_target_sizes": ["width", "height", 1]}}, r"is \[1, 2\]; \[width, height, 1\] does not fit"),
        ({"inputs": {"orig_target_sizes": ["scale_x", "scale_y"]}}, "is int64, which does not hold scale_x"),
        ({"inputs": {"orig_target_sizes": {"a": 1}}}, "give a number, a word, or a list"),
        ({"inputs": {}}, "reads 'orig_target_sizes', which no part before it writes"),
        (
            {"inputs": {"orig_target_sizes": ["width", "height"], "x": 1}},
            "no part reads the input 'x' besides the image",
        ),
        (
            {"inputs": {"orig_target_sizes": ["width", "height"], "images": 1}},
            "no part reads the input 'images' besides",
        ),
        ({"inputs": [1]}, "inputs"),
    ],
)
@pytest.mark.parametrize("applied", ["rtdetr"], indirect=True)
def test_a_broken_manifest_is_one_line(
    applied: Applied, cli: Cli, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    parts = shutil.copytree(applied.parts, tmp_path / "parts")
    file = parts / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | change), encoding="utf-8")
    outcome = cli("run", parts, "--image", applied.folder / "photos" / "1.png")
    assert outcome.code == 2
    assert re.search(said, outcome.last_line), outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (
            "{orig_target_sizes: [width, heigth]}",
            r"net\.yaml:3: source\.inputs\.orig_target_sizes: 'heigth' is none of",
        ),
        ("{orig_target_size: [width, height]}", r"has no input 'orig_target_size'.*Did you mean 'orig_target_sizes'"),
        ("{orig_target_sizes: [height, width, 1]}", r"is \[n, 2\]; \[height, width, 1\] does not fit"),
        ("{orig_target_sizes: mask}", "does not fit"),
        ("{orig_target_sizes: [scale_y, scale_x]}", "is int64, which does not hold scale_y"),
    ],
)
@pytest.mark.parametrize("applied", ["rtdetr"], indirect=True)
def test_a_rule_that_does_not_fit_is_one_line(
    applied: Applied, cli: Cli, tmp_path: Path, inputs: str, said: str
) -> None:
    shutil.copy(applied.folder / "net.onnx", tmp_path)
    recipe = tmp_path / "net.yaml"
    recipe.write_text(f"source:\n  onnx: net.onnx\n  inputs: {inputs}\n", encoding="utf-8")
    outcome = cli("apply", recipe, "--out", tmp_path / "parts", "--model-io", tmp_path / "model_io")
    assert outcome.code == 2
    assert re.search(said, outcome.last_line), outcome.err
    assert "Traceback" not in outcome.err
