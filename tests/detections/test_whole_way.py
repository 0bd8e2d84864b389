"""A network of the form of YOLO's in an ONNX file, from the recipe to boxes on the image and AP.

It finds what the image says: pixel (row, column) is number `row` of candidate `column`: centre, size, three scores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bars import change
from conftest import Cli
from PIL import Image

import graphsurgery
from graphsurgery.errors import InputError
from graphsurgery.testing import parse

HEIGHT, WIDTH, CLASSES = 8, 64, ["cat", "dog", "eel"]
HEAD = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 8, 64] images) => (OUTPUT) {
        zero = Constant <value_int = 0> ()
        sizes = Constant <value = float[4, 1] {64, 8, 64, 8}> ()
        parts = Constant <value_ints = [4, 3, 1]> ()
        red = Gather <axis = 1> (images, zero)
        shares, scores, rest = Split <axis = 1> (red, parts)
        boxes = Mul (shares, sizes)
        REST
    }"""
RAW = HEAD.replace("OUTPUT", "float[1, 7, 64] output0").replace("REST", "output0 = Concat <axis = 1> (boxes, scores)")
END_TO_END = HEAD.replace("OUTPUT", "float[1, K, 6] output0").replace(
    "REST",
    """most = Constant <value_ints = [300]> ()
        iou = Constant <value_floats = [0.7]> ()
        least = Constant <value_floats = [0.001]> ()
        first = Constant <value_ints = [0]> ()
        one = Constant <value_int = 1> ()
        two = Constant <value_int = 2> ()
        half = Constant <value_float = 0.5> ()
        rows = Transpose <perm = [0, 2, 1]> (boxes)
        chosen = NonMaxSuppression <center_point_box = 1> (rows, scores, most, iou, least)
        label = Gather <axis = 1> (chosen, one)
        row = Gather <axis = 1> (chosen, two)
        table = Gather <axis = 0> (rows, zero)
        found = Gather <axis = 0> (table, row)
        centre, size = Split <axis = 1> (found)
        reach = Mul (size, half)
        low = Sub (centre, reach)
        high = Add (centre, reach)
        last = Constant <value_ints = [1]> ()
        labels = Unsqueeze (label, last)
        where = Unsqueeze (row, last)
        at = Concat <axis = 1> (labels, where)
        grid = Gather <axis = 0> (scores, zero)
        score = GatherND (grid, at)
        scored = Unsqueeze (score, last)
        named = Cast <to = 1> (labels)
        all = Concat <axis = 1> (low, high, scored, named)
        output0 = Unsqueeze (all, first)""",
)


def write_images(folder: Path, count: int, ids: tuple[int, ...] = (3, 7, 11)) -> None:
    """Write images of candidates, two objects for each class among them, and COCO annotations."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        pixels[:2, :, 0] = random.integers(60, 200, (2, WIDTH))
        pixels[2:4, :, 0] = random.integers(60, 120, (2, WIDTH))
        pixels[4:7, :, 0] = random.permutation(3 * WIDTH).reshape(3, WIDTH)  # no two scores are equal
        pixels[:4, 30:60, 0] = pixels[:4, :30, 0] + random.integers(0, 3, (4, 30))  # what nms is for
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
        for label, column in enumerate(random.permutation(WIDTH)[:6] % WIDTH):
            x, y, w, h = pixels[:4, column, 0] / 255 * [WIDTH, HEIGHT, WIDTH, HEIGHT]
            box = {"bbox": [x - w / 2, y - h / 2, w, h], "area": w * h, "iscrowd": 0}
            objects.append({"id": len(objects) + 1, "image_id": number, "category_id": ids[label % 3], **box})
    categories = [{"id": each, "name": name} for each, name in zip(ids, CLASSES, strict=True)]
    content = {"images": images, "annotations": objects, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(parse(RAW), tmp_path / "raw.onnx")
    onnx.save(parse(END_TO_END), tmp_path / "end2end.onnx")
    write_images(tmp_path, 6)
    return tmp_path


def applied(cli: Cli, folder: Path, model: str, detections: str, *options: object) -> Any:
    recipe = folder / f"{model}.yaml"
    section = f"detections: {detections}\n" if detections else ""
    recipe.write_text(f"source: {{onnx: {model}.onnx}}\n{section}capture: {{images: images, samples: 2}}\n", "utf-8")
    return cli("apply", recipe, "--out", folder / model, "--model-io", folder / f"io_{model}", *options)


def evaluation(folder: Path) -> tuple[str, ...]:
    return "--images", str(folder / "images"), "--annotations", str(folder / "instances.json")


NAMED = f"classes: [{', '.join(CLASSES)}]"


def test_raw_outputs_become_boxes_on_the_image(cli: Cli, folder: Path) -> None:
    outcome = applied(cli, folder, "raw", f"{{preset: ultralytics, {NAMED}}}")
    assert outcome.code == 0, outcome.err
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:7, 5, 0] = [128, 128, 64, 128, 0, 230, 0]
    pixels[:7, 9, 0] = [130, 128, 64, 128, 0, 120, 0]
    Image.fromarray(pixels).save(folder / "photo.png")
    outcome = cli("run", folder / "raw", "--image", folder / "photo.png", "--json", folder / "found.json")
    assert outcome.code == 0, outcome.err
    (found,) = json.loads((folder / "found.json").read_text("utf-8"))["detections"]
    assert (found["label"], found["class"]) == (1, "dog")
    centre, size = np.array([128 / 255 * 64, 128 / 255 * 8]), np.array([64 / 255 * 64, 128 / 255 * 8])
    np.testing.assert_allclose(found["box"], [*(centre - size / 2), *(centre + size / 2)], atol=1e-4)
    assert found["score"] == pytest.approx(230 / 255)

    again = graphsurgery.load(folder / "raw")(pixels)  # no recipe is there any more
    np.testing.assert_allclose(again["boxes"][0], found["box"], atol=1e-4)


def test_a_raw_export_and_one_with_its_own_nms_are_as_precise(cli: Cli, folder: Path) -> None:
    pytest.importorskip("pycocotools")
    precision = {}
    for model, preset in (("raw", "ultralytics"), ("end2end", "ultralytics_end2end")):
        outcome = applied(cli, folder, model, f"{{preset: {preset}, {NAMED}}}")
        assert outcome.code == 0, outcome.err
        outcome = cli("evaluate", folder / model, *evaluation(folder), "--json", folder / "ap.json", "--workers", 1)
        assert outcome.code == 0, outcome.err
        precision[model] = json.loads((folder / "ap.json").read_text("utf-8"))["ap"]["bbox"]
    assert precision["raw"]["original"] == precision["raw"]["parts"]
    assert 0.05 < precision["raw"]["parts"] < 1
    assert precision["raw"]["parts"] == pytest.approx(precision["end2end"]["parts"], abs=1e-3)
    # without the suppression there are more false positives
    assert applied(cli, folder, "raw", f"{{preset: ultralytics, nms: , {NAMED}}}").code == 0
    assert cli("evaluate", folder / "raw", *evaluation(folder), "--json", folder / "ap.json", "--workers", 1).code == 0
    without = json.loads((folder / "ap.json").read_text("utf-8"))["ap"]["bbox"]
    assert without["parts"] < precision["raw"]["parts"] - 1e-3


def test_the_report_shows_what_was_captured_and_is_found(cli: Cli, folder: Path) -> None:
    assert applied(cli, folder, "raw", "ultralytics").code == 0
    page = (folder / "raw" / "report.html").read_text("utf-8")
    assert page.count("data:image/png;base64") + page.count("data:image/jpeg;base64") >= 4


def test_without_the_section_there_are_tensors(cli: Cli, folder: Path) -> None:
    outcome = applied(cli, folder, "raw", "")
    assert outcome.code == 0, outcome.err
    said = (
        "detections in the recipe says what the outputs of a network are: output0 [1, 7, 64] looks like ultralytics, "
        "3 classes"
    )
    image = folder / "images" / "1.png"
    outcome = cli("run", folder / "raw", "--image", image)
    assert (outcome.code, outcome.last_line) == (
        2,
        f"error: {folder / 'raw'}: {said}; --raw writes the outputs as they are",
    )
    outcome = cli("evaluate", folder / "raw", *evaluation(folder))
    assert (outcome.code, outcome.last_line) == (2, f"error: {folder / 'raw'}: {said}")
    outcome = cli("report", folder / "raw", "--model-io", folder / "io_raw")
    assert (outcome.code, outcome.last_line) == (2, f"error: {folder / 'raw'}: {said}")
    with pytest.raises(InputError, match="looks like ultralytics"):
        graphsurgery.load(folder / "raw")(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    plan = f"evaluate={{images: {folder / 'images'}, annotations: {folder / 'instances.json'}}}"
    outcome = applied(cli, folder, "raw", "", "--set", plan)
    assert outcome.code == 2
    assert outcome.last_line.endswith(said)
    assert cli("bench", folder / "raw", "--runs", 2).code == 0

    outcome = cli("run", folder / "raw", "--image", image, "--raw", "--out", folder / "tensors", "--json", "-")
    assert outcome.code == 0, outcome.err
    written = json.loads(outcome.out)["images"][0]["outputs"]
    assert written == {"output0": str(folder / "tensors" / "output0.npy")}
    output = np.load(folder / "tensors" / "output0.npy")
    np.testing.assert_allclose(output[0, 4:] * 255, np.asarray(Image.open(image))[4:7, :, 0], atol=1e-3)
    # again, and of a whole folder
    assert cli("run", folder / "raw", "--image", folder / "images", "--raw").code == 0
    assert cli("run", folder / "raw", "--image", folder / "images", "--raw").code == 0
    assert (folder / "images" / "6.outputs" / "output0.npy").is_file()
    assert cli("run", folder / "raw", "--image", image, "--raw", "--pipeline", 1).code == 2


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("", "has the category ids 3, 7, 11, the network the labels 0, 1, 2; say what they are called in"),
        (", classes: [cat, dog, cow]", "the model doesn't know category 11 'eel'"),
        (", categories: [3, 7]", "detections.categories has no label for category 11 and 0 others of 3"),
    ],
)
def test_labels_are_no_category_ids_unless_somebody_says_so(cli: Cli, folder: Path, own: str, said: str) -> None:
    pytest.importorskip("pycocotools")
    assert applied(cli, folder, "raw", f"{{preset: ultralytics{own}}}").code == 0
    outcome = cli("evaluate", folder / "raw", *evaluation(folder), "--workers", 1)
    assert outcome.code == 2
    assert said in outcome.last_line


def test_labels_of_a_tensor_of_their_own_are_looked_at_too(cli: Cli, folder: Path) -> None:
    pytest.importorskip("pycocotools")
    assert applied(cli, folder, "end2end", "ultralytics_end2end").code == 0
    outcome = cli("evaluate", folder / "end2end", *evaluation(folder), "--workers", 1)
    assert outcome.code == 2
    assert "the network the labels 0, 1, 2" in outcome.last_line


def test_a_map_of_labels_is_as_good_as_names(cli: Cli, folder: Path) -> None:
    pytest.importorskip("pycocotools")
    found = []
    for own in (NAMED, "categories: [3, 7, 11]", "categories: {'2': 11, '0': 3, '1': 7}"):
        assert applied(cli, folder, "raw", f"{{preset: ultralytics, {own}}}").code == 0
        outcome = cli("evaluate", folder / "raw", *evaluation(folder), "--workers", 1, "--json", folder / "ap.json")
        assert outcome.code == 0, outcome.err
        found.append(json.loads((folder / "ap.json").read_text("utf-8"))["ap"]["bbox"]["parts"])
    assert found[0] == found[1] == found[2] > 0.05


@pytest.mark.parametrize(
    ("detections", "said"),
    [
        ("detr", "detections.boxes: there is no output number 1; the network gives output0 [1, 7, 64]"),
        ("torchvision", "detections.boxes: there is no output 'boxes'; the network gives output0 [1, 7, 64]"),
        ("ultralytics_end2end", "error"),
        ("yolox", "error"),
    ],
)
def test_the_wrong_section_is_told_in_one_line(cli: Cli, folder: Path, detections: str, said: str) -> None:
    outcome = applied(cli, folder, "raw", detections)
    if outcome.code == 0:
        outcome = cli("run", folder / "raw", "--image", folder / "images" / "1.png")
    assert outcome.code in (0, 2), outcome.err
    assert "a bug" not in outcome.err
    if said != "error":
        assert said in outcome.last_line


HOSTILE: dict[str, Any] = {
    "a list": [],
    "an unknown key": {"scores": {}, "boxes": {}, "code": "import os"},
    "no scores": {"boxes": {}},
    "a name that is not there": {"scores": {"tensor": "/etc/passwd"}, "boxes": {}},
    "a position that is not there": {"scores": {"tensor": 10**30}, "boxes": {}},
    "a number for a view": {"scores": 5, "boxes": {}},
    "a list for a view": {"scores": [{}], "boxes": {}},
    "an axis that is not there": {"scores": {"axis": 5}, "boxes": {}},
    "columns that are not there": {"scores": {"axis": 1, "columns": [70]}, "boxes": {}},
    "more strides than anybody has": {
        "scores": {},
        "boxes": {"form": "yolox"},
        "points": {"strides": [1] * 100},
    },
    "anchors that no memory holds": {
        "scores": {},
        "boxes": {"form": "deltas"},
        "anchors": {"levels": [{"stride": 1, "sizes": [[1, 1]] * 10**4}]},
    },
    "a size that is no number": {
        "scores": {},
        "boxes": {"form": "deltas"},
        "anchors": {"levels": [{"stride": 1, "sizes": [["1", float("nan")]]}]},
    },
    "a maximum beyond all bounds": {"scores": {}, "boxes": {}, "maximum": 10**9},
    "candidates beyond all bounds": {"scores": {}, "boxes": {}, "nms": {"candidates": 10**12}},
    "bins beyond all bounds": {"scores": {}, "boxes": {"form": "ltrb", "bins": 10**9}, "points": {"strides": [8]}},
    "classes without number": {"scores": {}, "boxes": {}, "classes": ["x"] * 10**5},
    "a class that is none": {"scores": {}, "boxes": {}, "classes": [5]},
    "categories of a class": {"scores": {}, "boxes": {}, "categories": {"cat": 1}},
    "a text for categories": {"scores": {}, "boxes": {}, "categories": "1"},
    "true for a number": {"scores": {}, "boxes": {}, "score": True},
    "a form that is none": {"scores": {}, "boxes": {"form": ["xyxy"]}},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_manifest_is_refused_in_one_line(cli: Cli, folder: Path, what: str) -> None:
    if not (folder / "raw").exists():
        assert applied(cli, folder, "raw", "ultralytics").code == 0
    change(folder / "raw" / "manifest.json", detections=HOSTILE[what])
    outcome = cli("run", folder / "raw", "--image", folder / "images" / "1.png")
    assert outcome.code == 2, outcome.err
    assert "manifest.json" in outcome.last_line
    assert "detections" in outcome.last_line


def test_anchors_that_are_not_those_of_the_network_are_never_made(cli: Cli, folder: Path) -> None:
    assert applied(cli, folder, "raw", "ultralytics").code == 0
    levels = [{"stride": 1, "sizes": [[1, 1]] * 64}] * 16
    section = {"scores": {}, "boxes": {"columns": [0, 4], "form": "deltas"}, "anchors": {"levels": levels}}
    change(folder / "raw" / "manifest.json", detections=section)
    outcome = cli("run", folder / "raw", "--image", folder / "images" / "1.png")
    assert outcome.code == 2
    assert "detections.anchors: are 524288 on the canvas 8 x 64" in outcome.last_line
