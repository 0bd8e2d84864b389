"""The recipes of one-stage detectors, each on a small network of that structure: boxes, masks and AP are right."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli, Outcome
from PIL import Image

import graphsurgery
from zoo.networks import NAMES
from zoo.one_stage import ZOO, written
from zoo.photos import box, shown


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
