"""The recipes of one-stage detectors, each on a small network of that structure: boxes, masks and AP are right."""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli, Outcome
from PIL import Image

import graphsurgery
from graphsurgery.capture.take import reference_detections
from graphsurgery.detections.presets import PRESETS
from graphsurgery.errors import InputError
from graphsurgery.recipe.layers import packaged_recipes
from graphsurgery.recipe.load import load_recipe
from graphsurgery.rewrite.registry import discover
from graphsurgery.sources import SourceSpec, open_source
from zoo.networks import NAMES, squares
from zoo.one_stage import ZOO, written
from zoo.photos import box, shown, write_photos


@dataclass(frozen=True)
class Applied:
    """A file of the zoo that `apply` took through its recipe."""

    name: str
    root: Path
    outcome: Outcome

    @property
    def parts(self) -> Path:
        return self.root / self.name

    @property
    def run(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.parts / "run.json").read_text("utf-8"))
        return content


def apply(cli: Cli, root: Path, name: str, *options: object) -> Outcome:
    file = written(root, name)
    named = "detections.classes=[red, green, blue]"
    where = ("--out", root / name, "--model-io", root / f"io_{name}", "--max-samples", 3)
    source = ("--set", f"source.onnx={file}", "--set", named, "--images", root / "photos")
    return cli("apply", ZOO[name][0], *source, *where, *options)


@pytest.fixture(scope="module", params=ZOO)
def applied(request: pytest.FixtureRequest, cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Applied:
    root = tmp_path_factory.mktemp(request.param)
    return Applied(request.param, root, apply(cli, root, request.param))


def require_right_boxes(found: list[dict[str, Any]], number: int) -> None:
    """The detections above 0.4 are the squares of a photo, each within four of its 64 pixels."""
    sure = [each for each in found if each["score"] > 0.4]
    found = sorted(sure, key=lambda each: [round(edge / 40) for edge in each["box"]])
    wanted = sorted(shown(number), key=lambda place: [round(edge / 40) for edge in box(place)])
    assert [each["class"] for each in found] == [NAMES[place[0]] for place in wanted]
    np.testing.assert_allclose([each["box"] for each in found], [box(place) for place in wanted], atol=4)


def test_apply_passes_all_of_its_checks(applied: Applied) -> None:
    assert applied.outcome.code == 0, applied.outcome.err
    run = applied.run
    assert {step["verdict"] for step in (*run["passes"], *run["checks"])} == {"passed"}
    assert {name: variant["verdict"] for name, variant in run["variants"].items()} == {"int8": "passed"}
    assert len(run["parts"]) == (1 if applied.name == "efficientdet" else 2)


@pytest.mark.parametrize("number", [3, 4])
def test_run_draws_the_right_boxes(cli: Cli, applied: Applied, number: int, tmp_path: Path) -> None:
    photo = applied.root / "photos" / f"{number}.png"
    for parts in (applied.parts, applied.parts / "int8"):
        outcome = cli("run", parts, "--image", photo, "--out", tmp_path / "drawn.png", "--json", "-", "--score", 0.4)
        assert outcome.code == 0, outcome.err
        require_right_boxes(json.loads(outcome.out)["detections"], number)
        drawn, before = (np.asarray(Image.open(path), np.int16) for path in (tmp_path / "drawn.png", photo))
        for place in shown(number):
            x0, y0, _, y1 = box(place)
            edge = np.s_[y0 + 16 : y1 - 8, max(0, x0 - 4) : x0 + 5]
            assert np.abs(drawn[edge] - before[edge]).max() > 50


def test_the_parts_are_as_precise_as_the_original(cli: Cli, applied: Applied, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    root = applied.root
    images = ("--images", root / "photos", "--annotations", root / "instances.json", "--workers", 1)
    outcome = cli("evaluate", applied.parts, *images, "--json", tmp_path / "ap.json")
    assert outcome.code == 0, outcome.err
    precision = json.loads((tmp_path / "ap.json").read_text("utf-8"))["ap"]["bbox"]
    assert precision["parts"] == pytest.approx(precision["original"], abs=1e-3)
    assert precision["original"] > 0.8
    assert precision["int8"] > precision["original"] - 0.02


def test_masks_are_the_squares(cli: Cli, tmp_path: Path) -> None:
    assert apply(cli, tmp_path, "yolo_seg", "--no-variants").code == 0
    pixels = np.asarray(Image.open(tmp_path / "photos" / "6.png"))
    found = graphsurgery.load(tmp_path / "yolo_seg")(pixels)
    sure = found["scores"] > 0.5
    assert sure.sum() == len(shown(6))
    for mask, label in zip(found["masks"][sure, 0], found["labels"][sure], strict=True):
        bright = pixels[..., label] > 128
        assert (mask[bright] > 0.5).sum() > 0.9 * 64**2  # no two squares of this photo are of one colour
        assert (mask[~bright] > 0.5).sum() < 0.1 * 64**2


GUESSES = {
    "yolo": "output0 [1, 7, 252] looks like ultralytics, 3 classes",
    "yolo_seg": "output0 [1, 39, 252], output1 [1, 32, 24, 32] look like ultralytics_seg, 3 classes",
    "yolo10": "output0 [1, 60, 6] looks like ultralytics_end2end",
    "yolo26": "output0 [1, 60, 6] looks like ultralytics_end2end",
    "yolox": "output [1, 252, 8] looks like yolox (yolox_decoded with its grid inside), 3 classes",
    "efficientdet": "class_0 [1, 27, 16, 16], class_1 [1, 27, 8, 8] and 8 more look like effdet, 3 classes",
}
QUICK = ("--set", "partition=", "--set", "variants=", "--no-check", "--max-samples", 1)


@pytest.mark.parametrize("name", ZOO)
def test_without_the_section_what_needs_it_says_which_preset_it_seems_to_be(
    cli: Cli, tmp_path: Path, name: str
) -> None:
    assert apply(cli, tmp_path, name, "--set", "detections=", *QUICK).code == 0
    images = ("--images", tmp_path / "photos", "--annotations", tmp_path / "instances.json")
    for command in (("run", "--image", tmp_path / "photos" / "1.png"), ("evaluate", *images)):
        outcome = cli(command[0], tmp_path / name, *command[1:])
        assert outcome.code == 2
        assert "detections in the recipe says what the outputs of a network are" in outcome.last_line
        assert GUESSES[name] in outcome.last_line


@pytest.mark.parametrize("name", ZOO)
def test_a_section_of_another_family_is_told_with_the_preset_it_seems_to_be(tmp_path: Path, name: str) -> None:
    recipe, registry = ZOO[name][0], discover()
    file, told = written(tmp_path, name), {}
    for preset in PRESETS:
        overrides = (f"source.onnx={file}", f"detections={preset}")
        try:
            source = open_source(load_recipe(recipe, overrides, registry=registry).source)
            source.trace(source.canvas.fit(squares(shown(1))))
        except InputError as error:
            told[preset] = str(error)
    assert all(message.startswith("detections.") and GUESSES[name] in message for message in told.values())
    assert len(told) > 2 / 3 * len(PRESETS)
    assert GUESSES[name].partition(" like ")[2].partition(",")[0].partition(" ")[0] not in told


def test_a_wrong_section_ends_in_one_line(cli: Cli, tmp_path: Path) -> None:
    outcome = apply(cli, tmp_path, "yolo", "--set", "detections=rtdetr", *QUICK)
    seen = f"there is no output number 1; the network gives output0 [1, 7, 252]; {GUESSES['yolo']}"
    assert (outcome.code, outcome.last_line) == (2, f"error: detections.boxes: {seen}")


def test_a_wrong_image_section_is_told_too(cli: Cli, tmp_path: Path) -> None:
    outcome = apply(cli, tmp_path, "yolo", "--set", "image.layout=NHWC", *QUICK)
    assert outcome.code == 2
    assert "image in the recipe says what else it may be" in outcome.last_line


def test_a_recipe_without_a_file_of_ones_own_says_that_it_needs_one(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("apply", "yolo", "--out", tmp_path / "parts", "--model-io", tmp_path / "io")
    assert outcome.code == 2
    assert "yolo.onnx: can't be read (No such file or directory); give an ONNX file" in outcome.last_line


def test_the_recipes_are_short() -> None:
    for name in {"ssd", *(recipe for recipe, _ in ZOO.values())}:
        assert len(packaged_recipes()[name].read_text("utf-8").splitlines()) <= 25


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime_qnn") is None, reason="onnxruntime-qnn is not installed")
@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="no emulator here")
def test_the_network_is_placed_on_the_npu_as_a_whole(cli: Cli, tmp_path: Path) -> None:
    assert apply(cli, tmp_path, "yolo10", "--variant", "htp", "--set", "check.samples=1", "--max-samples", 2).code == 0
    outcome = cli("placement", tmp_path / "yolo10" / "htp", "--json", tmp_path / "placed.json")
    assert outcome.code == 0, outcome.err
    placed = json.loads((tmp_path / "placed.json").read_text("utf-8"))
    assert [(part["part"], part["node_share"]) for part in placed["parts"]] == [("network", 1), ("decode", 0)]


@pytest.mark.whole
def test_ssd_of_torchvision_goes_the_whole_way(cli: Cli, tmp_path: Path) -> None:
    for package in ("torchvision", "pycocotools"):
        pytest.importorskip(package)
    import torch

    original = open_source(SourceSpec("torchvision", "ssd300_vgg16", "random:0", (300, 300)))
    weights = tmp_path / "ssd.pth"  # to make random ones takes ten seconds, to read them one
    torch.save(original._model.state_dict(), weights)
    write_photos(tmp_path, 1)
    images = ("--images", tmp_path / "photos")
    where = ("--out", tmp_path / "ssd", "--model-io", tmp_path / "io")
    outcome = cli("apply", "ssd", "--weights", weights, *images, *where)
    assert outcome.code == 0, outcome.err
    photo, made = tmp_path / "photos" / "1.png", tmp_path / "1.json"
    assert cli("run", tmp_path / "ssd", "--image", photo, "--out", tmp_path / "1.png", "--json", made).code == 0
    found = json.loads(made.read_text("utf-8"))["detections"]
    wanted = reference_detections(original, np.asarray(Image.open(photo)))
    assert [each["label"] for each in found] == wanted["labels"].tolist()
    np.testing.assert_allclose([each["box"] for each in found], wanted["boxes"], atol=0.05)
    np.testing.assert_allclose([each["score"] for each in found], wanted["scores"], atol=1e-3)
