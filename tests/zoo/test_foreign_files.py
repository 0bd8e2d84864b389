"""Real exports of other projects, where a folder of them lies beside the checkout: parts, or one line that says why.

FOREIGN_FILES in the environment names another folder. Nothing is skipped silently but all of it, where there is none.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli, Outcome
from PIL import Image

from graphsurgery.demo.shapes import draw
from graphsurgery.recipe.load import load_recipe
from graphsurgery.rewrite import registry

ROOT = Path(__file__).parents[2]
_PLACES = (ROOT.parent / "shared" / "foreign", ROOT.parent.parent / "shared" / "foreign")
FOLDER = Path(os.environ.get("FOREIGN_FILES") or next((place for place in _PLACES if place.is_dir()), _PLACES[0]))
CASES: dict[str, tuple[str, list[str], str]] = {
    # file -> its recipe, what is set besides, and the beginning of the reason where it can't be applied
    "tf_rtdetr": ("rtdetr", [], ""),
    "tf_detr": ("detr", [], ""),
    "tf_yolos": ("detr", [], ""),
    "detectron2_maskrcnn_opset17": ("detectron2_maskrcnn", [], ""),
    "detectron2_04_maskrcnn_stock": ("detectron2_maskrcnn", [], ""),
    "detectron2_04_maskrcnn_ascend": ("detectron2_maskrcnn", [], "No Op registered for BatchMultiClassNMS"),
    "mmdet_fasterrcnn_static": (
        "mmdet_maskrcnn",
        [
            "detections=mmdet",
            "partition.parts={backbone_rpn: npu, box_proposal: cpu, box_head: npu, postprocess: cpu}",
            "part_passes={box_head: [{freeze-batch: {size: 1000}}]}",
            "variants=",
            "check.tolerance.masks=",
        ],
        "",
    ),
    "mmdet_maskrcnn_dynamic": ("mmdet_maskrcnn", ["source.size=[256, 320]"], "mmcv:grid_sampler(-1) is not a"),
    "mmdet_maskrcnn_mmcvroialign": ("mmdet_maskrcnn", ["source.size=[256, 320]"], "has no RoiAlign to cut at"),
    "maskrcnn_unrolledbn_opset10": (
        "mmdet_maskrcnn",
        [
            "image={range: 255, channels: BGR, mean: [102.9801, 115.9465, 122.7717]}",
            "detections=maskrcnn_benchmark",
        ],
        "",
    ),
    "torchvision_maskrcnn_frozenbn_opset12": ("maskrcnn", ["source.size=[320, 320]"], ""),
}
READABLE = [name for name, (_, _, reason) in CASES.items() if not reason]
UNCUT = ("partition=", "variants=", "check.tolerance={boxes: 2.0e-2, scores: 1.0e-3, masks: 5.0e-3}")
FIRST = ("freeze-shapes", "simplify")  # of a dynamic graph most passes see nothing

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"there is no folder {FOLDER}")


Apply = Callable[..., Outcome]


@pytest.fixture
def apply(cli: Cli, tmp_path: Path) -> Apply:
    """Apply the recipe of a file to it, with other values set, on one image."""

    def call(name: str, *values: str) -> Outcome:
        recipe, own, _ = CASES[name]
        given = [f"source.onnx={FOLDER / name}.onnx", "capture.samples=1", *own, *values]
        there = set(load_recipe(recipe, given[:1], registry=registry.discover()).merged)
        if "partition=" in values and "part_passes" in there:
            given.append("part_passes=")
        last = {
            value.split("=", 1)[0]: value for value in given if value[-1] != "=" or value.split(".")[0][:-1] in there
        }
        last |= {value.split("=", 1)[0]: value for value in given if value[-1] == "=" and "." in value}
        options = [part for value in last.values() for part in ("--set", value)]
        return cli(
            "apply", recipe, *options, "--no-variants", "--out", tmp_path / "parts", "--model-io", tmp_path / "io"
        )

    return call


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(draw(0, 0).image).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def is_one_line(outcome: Outcome) -> bool:
    """Whether a command that ended badly says so in one line, as fits the input's fault."""
    return outcome.code in (1, 2) and outcome.last_line.startswith(("error:", "first difference:", "hint:"))


@pytest.mark.parametrize("name", CASES)
def test_parts_come_out_or_the_reason_why_not(cli: Cli, apply: Apply, tmp_path: Path, image: Path, name: str) -> None:
    assert cli("inspect", FOLDER / f"{name}.onnx", "--cuts").code in (0, 2)
    outcome, reason = apply(name), CASES[name][2]
    if reason:
        assert is_one_line(outcome)
        assert reason in outcome.last_line
        return
    assert outcome.code == 0, outcome.err
    assert cli("run", tmp_path / "parts", "--image", image, "--raw").code == 0
    assert cli("run", tmp_path / "parts", "--image", image).code == 0


@pytest.mark.parametrize("name", READABLE)
def test_a_missing_section_is_told_with_a_guess(cli: Cli, apply: Apply, tmp_path: Path, image: Path, name: str) -> None:
    outcome = apply(name, "detections=", *UNCUT, "passes=[]")
    assert outcome.code == 0, outcome.err
    outcome = cli("run", tmp_path / "parts", "--image", image)
    if name.startswith("torchvision"):  # its names are told from those of torchvision's detectors
        assert outcome.code == 0, outcome.err
        return
    assert outcome.code == 2
    assert "detections in the recipe says what the outputs of a network are" in outcome.last_line
    assert "like" in outcome.last_line


@pytest.mark.parametrize("name", READABLE)
def test_a_wrong_section_is_named(apply: Apply, name: str) -> None:
    outcome = apply(name, "detections=yolox", *UNCUT, "passes=[]")
    assert is_one_line(outcome), outcome.err
    assert "detections" in outcome.err


@pytest.mark.parametrize("name", READABLE)
def test_all_exact_passes_in_a_row_change_no_number(apply: Apply, name: str) -> None:
    found = registry.discover()
    passes = [
        each
        for each in found.names()
        if found.get(each).effect == "exact"
        and each not in FIRST
        and all(
            field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            for field in dataclasses.fields(found.get(each))
        )
    ]
    outcome = apply(name, f"passes=[drop-initializer-inputs, {', '.join((*FIRST, *passes))}]", "image=", *UNCUT)
    assert outcome.code == 0, outcome.err
