"""Real exports of other projects, where a folder of them lies beside the checkout: parts, or one line that says why.

FOREIGN_FILES in the environment names another folder. All of it is skipped where there is none. The weights are random
and the layers narrow, so that a detector of two stages takes seconds.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli, Outcome
from every_pass import exact_passes, steps_of
from PIL import Image

from graphsurgery.capture.take import embedded_samples
from graphsurgery.demo.shapes import draw
from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.parts.manifest import Manifest
from graphsurgery.recipe.load import load_recipe
from graphsurgery.rewrite import apply_passes, registry
from graphsurgery.sources import SourceSpec, open_source

ROOT = Path(__file__).parents[2]
_PLACES = [place / "shared" / "foreign" for place in (ROOT.parent, ROOT.parent.parent)]
FOLDER = Path(os.environ.get("FOREIGN_FILES") or next(filter(Path.is_dir, _PLACES), _PLACES[0]))

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"there is no folder {FOLDER}")


@dataclass(frozen=True)
class Case:
    """How a file is applied: its recipe, what is set besides, and which preset its outputs look like."""

    recipe: str
    values: tuple[str, ...] = ()
    looks_like: str = ""


_UNSQUEEZED = (  # their image has no batch
    "partition.parts={unsqueeze: cpu, backbone_rpn: npu, box_proposal: cpu, box_head: npu, mask_proposal: cpu, "
    "mask_head: npu, postprocess: cpu}"
)
CASES = {
    "tf_rtdetr": Case("rtdetr", looks_like="detr, 1 class (rtdetr, 2 classes, where scores are of sigmoid)"),
    "tf_detr": Case("detr", looks_like="detr, 2 classes"),
    "tf_yolos": Case("detr", looks_like="detr, 2 classes"),
    "yolo_like_head": Case("yolo", looks_like="ultralytics, 80 classes"),
    "yolo_like_unsorted": Case("yolo", looks_like="ultralytics, 80 classes"),
    "detectron2_maskrcnn_opset17": Case("detectron2_maskrcnn", looks_like="detectron2_mask"),
    "detectron2_04_maskrcnn_stock": Case("detectron2_maskrcnn", looks_like="detectron2_mask"),
    "mmdet_fasterrcnn_static": Case(
        "mmdet_maskrcnn",
        (
            "detections=mmdet",
            "partition.parts={backbone_rpn: npu, box_proposal: cpu, box_head: npu, postprocess: cpu}",
            "part_passes={box_head: [{freeze-batch: {size: 1000}}]}",
            "variants=",
            "check.tolerance.masks=",
        ),
        looks_like="mmdet",
    ),
    "maskrcnn_unrolledbn_opset10": Case(
        "mmdet_maskrcnn",
        (
            "image={range: 255, channels: BGR, mean: [102.9801, 115.9465, 122.7717]}",
            "detections=maskrcnn_benchmark",
            _UNSQUEEZED,
            "check.tolerance.boxes=0.05",  # 1e-5 of what the RPN gives, where onnxsim multiplies weights by the Mul
            "check.tolerance.masks=0.01",
        ),
        looks_like="maskrcnn_benchmark",
    ),
    "torchvision_maskrcnn_frozenbn_opset12": Case(
        "maskrcnn",
        (
            "source.size=[320, 320]",
            "passes=[{freeze-shapes: {batch: 1}}, simplify, {raise-opset: {opset: 17}}, lower-scatter-elements]",
            _UNSQUEEZED,
        ),
    ),
}
# Recipes of a vendor's flow, on files that the cases above have too
FLOWS = {
    "maskrcnn_unrolledbn_opset10": Case(
        "riscv_zoo",
        (
            # random weights: the rounding of a weight in place of a Mul moves boxes by 0.1 px, and one is 0.1 px wide
            "check.tolerance.boxes=0.2",
            "check.tolerance.masks=0.03",
            "check.tolerance.unmatched=2",
        ),
    ),
    "torchvision_maskrcnn_frozenbn_opset12": Case("riscv_torchvision"),
}
RUN = list(CASES)
# Files that hold operators of mmcv or of CANN, the outputs of which have no section here
CUSTOM = {
    "detectron2_04_maskrcnn_ascend": "",
    "mmdet_maskrcnn_dynamic": "size: [256, 320]",
    "mmdet_maskrcnn_mmcvroialign": "size: [256, 320]",
}
# One detector of two stages goes all the way; what is measured and reported of the others' parts would be the same
CUT_ONLY = [name for name in RUN if "rcnn" in name and name != "detectron2_04_maskrcnn_stock"]
# What an input of another kind needs in the recipe, and what its absence is told with
INPUTS = {
    "in_batch4": ("", "", ""),
    "in_half": ("", "image: {dtype: float16}", "x looks like {dtype: float16}"),
    "in_mask": ("inputs: {mask: 1}", "", "source.inputs in the recipe says what the others are"),
    "in_nhwc": ("", "image: {layout: NHWC}", "x looks like {layout: NHWC}"),
    "in_uint8": ("", "image: {dtype: uint8, range: 255}", "x looks like {dtype: uint8, range: 255}"),
}


def written(folder: Path, name: str, inputs: str = "", image: str = "") -> Path:
    """Write the shortest recipe of a file."""
    source = ", ".join(filter(None, [f"onnx: {FOLDER / name}.onnx", inputs]))
    (folder / "short.yaml").write_text(f"source: {{{source}}}\n{image}\ncapture: {{samples: 1}}\n", "utf-8")
    return folder / "short.yaml"


def given(name: str, *without: str, case: Case | None = None) -> list[str]:
    """Return what is set over the recipe of a file, and those of the sections `without` taken away that it has."""
    case = case or CASES[name]
    values = [f"source.onnx={FOLDER / name}.onnx", "capture.samples=1", *case.values]
    there = load_recipe(case.recipe, values, registry=registry.discover()).merged
    return values + [f"{section}=" for section in without if section in there]


def apply(cli: Cli, folder: Path, recipe: str | Path, *values: str, plugin: Path | None = None) -> Outcome:
    options = [part for value in values for part in ("--set", value)] + (["--plugin", plugin] if plugin else [])
    where = ("--out", folder / "parts", "--model-io", folder / "io")
    return cli("apply", recipe, *options, "--no-variants", *where)


def trace(spec: SourceSpec) -> dict[str, np.ndarray]:
    source = open_source(spec)
    return source.trace(source.canvas.fit(draw(0, 0).image))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(draw(0, 0).image).save(tmp_path / "image.png")
    return tmp_path / "image.png"


@pytest.mark.parametrize("name", [name for name in RUN if name not in CUT_ONLY])
def test_parts_come_out_and_play_an_image(cli: Cli, tmp_path: Path, image: Path, name: str) -> None:
    outcome = apply(cli, tmp_path, CASES[name].recipe, *given(name))
    assert outcome.code == 0, outcome.err
    outcome = cli("run", tmp_path / "parts", "--image", image)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "image.detections.png").is_file()


@pytest.mark.parametrize("name", FLOWS)
def test_a_vendors_flow_makes_of_its_file_what_the_tool_takes(cli: Cli, tmp_path: Path, image: Path, name: str) -> None:
    outcome = apply(cli, tmp_path, FLOWS[name].recipe, *given(name, case=FLOWS[name]))
    assert outcome.code == 0, outcome.err
    operators = {node.op_type for node in Model.load(tmp_path / "parts" / "backbone_rpn.onnx").proto.graph.node}
    assert operators == {"Conv", "Relu", "Add", "Resize", "MaxPool"}  # each BatchNorm is in its Conv
    manifest = Manifest.read(tmp_path / "parts")
    sampled = {part.name: list(part.sampled.values()) for part in manifest.parts if part.accelerator}
    assert FLOWS[name].recipe != "riscv_zoo" or sampled["box_head"] == [[1, 2, 3]]  # its shape is computed
    assert (tmp_path / "parts" / "compiled" / "riscv-ort" / "whole" / "whole.onnx").is_file()
    assert cli("compile", tmp_path / "parts", "--with", "riscv-ort", "--images", image).code == 0
    assert cli("run", tmp_path / "parts", "--image", image, "--dump-test-data", tmp_path / "data").code == 0


@pytest.mark.parametrize("name", CUT_ONLY)
def test_the_recipe_and_all_exact_passes_on_its_parts_pass_their_checks(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(CASES[name].recipe, given(name), registry=registry.discover())
    assert recipe.partition is not None
    own = recipe.merged.get("part_passes", {})
    more = [f"part_passes.{part}={json.dumps([*own.get(part, ()), 'every-pass'])}" for part in recipe.partition.parts]
    steps = steps_of(CASES[name].recipe, embedded_samples(1), tmp_path, [*given(name), *more])
    assert {step.verdict for step in steps} == {"passed"}
    assert [step.part for step in steps if step.name == "every-pass"] == list(recipe.partition.parts)


@pytest.mark.parametrize("name", CUSTOM)
def test_files_with_custom_operators_are_looked_at_and_run(cli: Cli, tmp_path: Path, name: str) -> None:
    assert cli("inspect", FOLDER / f"{name}.onnx").code == 0
    recipe = load_recipe(str(written(tmp_path, name, CUSTOM[name])), registry=registry.discover())
    traced = trace(recipe.source)
    outputs = [value.name for value in Model.load(FOLDER / f"{name}.onnx").proto.graph.output]
    assert all(np.isfinite(traced[output]).all() for output in outputs)


@pytest.mark.parametrize("name", [name for name in RUN if CASES[name].looks_like])
def test_a_missing_section_is_told_with_the_preset_that_it_seems_to_be(name: str) -> None:
    recipe = load_recipe(CASES[name].recipe, given(name, "detections"), registry=registry.discover())
    with pytest.raises(InputError) as caught:
        open_source(recipe.source).require_detections()
    assert "detections in the recipe says what the outputs of a network are: " in str(caught.value)
    assert f" like {CASES[name].looks_like}" in str(caught.value)


@pytest.mark.parametrize("name", RUN)
def test_a_wrong_section_is_told_with_the_preset_that_it_seems_to_be(name: str) -> None:
    recipe = load_recipe(CASES[name].recipe, [*given(name), "detections=yolox"], registry=registry.discover())
    with pytest.raises(InputError, match=r"^detections\.") as caught:
        trace(recipe.source)
    assert f" like {CASES[name].looks_like or 'torchvision_mask'}" in str(caught.value)


@pytest.mark.parametrize("name", [name for name in (*RUN, *INPUTS) if name not in CUT_ONLY])
def test_all_exact_passes_in_a_row_change_no_number(tmp_path: Path, name: str) -> None:
    passes = "passes=[drop-initializer-inputs, freeze-shapes, simplify, every-pass]"
    if name in INPUTS:
        recipe, values = str(written(tmp_path, name, *INPUTS[name][:2])), []
    else:
        recipe, values = CASES[name].recipe, given(name, "part_passes", "variants", "partition")
    steps = steps_of(recipe, embedded_samples(1), tmp_path, [*values, passes])
    assert [step.verdict for step in steps] == ["passed"] * 4


def test_no_exact_pass_trips_over_custom_operators() -> None:
    model = Model.load(FOLDER / "detectron2_04_maskrcnn_ascend.onnx")
    after = apply_passes([registry.discover().get(each)() for each in exact_passes()], model).model
    assert [value.name for value in after.proto.graph.output] == [value.name for value in model.proto.graph.output]


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_of_other_kinds(cli: Cli, tmp_path: Path, image: Path, name: str) -> None:
    inputs, section, advice = INPUTS[name]
    if advice:
        outcome = apply(cli, tmp_path, written(tmp_path, name))
        assert outcome.code == 2
        assert outcome.last_line.endswith(advice)
    outcome = apply(cli, tmp_path, written(tmp_path, name, inputs, section))
    assert outcome.code == 0, outcome.err
    parts = tmp_path / "parts"
    assert cli("run", parts, "--image", image, "--raw").code == 0
    for command in (("run", parts, "--image", image), ("evaluate", parts)):
        outcome = cli(*command)
        assert outcome.code == 2
        assert "detections in the recipe says what the outputs of a network are; y [" in outcome.last_line
    assert cli("inspect", FOLDER / f"{name}.onnx", "--cuts").code == 0
    assert cli("report", parts).code == 0
    quantized = cli("quantize", next(parts.glob("*.onnx")), "--inputs", tmp_path / "io", "--out", tmp_path / "q.onnx")
    assert quantized.code == (2 if name == "in_half" else 0), quantized.err
    assert "is float16; quantize the float32 model" in quantized.last_line or quantized.code == 0


@pytest.mark.parametrize("name", ["yolo_like_unsorted", "tf_rtdetr"])
@pytest.mark.parametrize("plugin", ["score_bug", "last_bit"])
def test_a_faulty_plug_in_is_named_and_a_rounding_one_passes(cli: Cli, tmp_path: Path, name: str, plugin: str) -> None:
    named = plugin.replace("_", "-")
    values = [*given(name, "variants", "partition"), f"passes=[{named}]"]
    outcome = apply(cli, tmp_path, CASES[name].recipe, *values, plugin=FOLDER / "plugins" / f"{plugin}.py")
    if plugin == "last_bit":
        assert outcome.code == 0, outcome.err
        return
    assert outcome.code == 1
    fault = "breaks the graph" if name == "tf_rtdetr" else "differs from the original model: output0 of sample"
    assert f"pass 'score-bug' {fault}" in outcome.err
