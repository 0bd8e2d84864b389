"""Real exports of other projects, where a folder of them lies beside the checkout: parts, or one line that says why.

FOREIGN_FILES in the environment names another folder. All of it is skipped where there is none. The weights are random
and the layers narrow, so that a detector of two stages takes seconds.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Cli, Outcome
from every_pass import exact_passes, steps_of
from PIL import Image
from spellings.detectron2 import exported

from graphsurgery.capture.take import embedded_samples
from graphsurgery.demo.shapes import draw
from graphsurgery.detections.row_groups import Keys
from graphsurgery.devices import session
from graphsurgery.errors import InputError
from graphsurgery.gate.matched_rows import match_rows
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import declared_shape
from graphsurgery.parts.manifest import Manifest
from graphsurgery.recipe.load import load_recipe
from graphsurgery.rewrite import PassContext, apply_passes, registry
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
ON_RISCV = {
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
# The vendors' flows on their own files; random weights tell nothing of what their approximations cost
_ANYTHING = "{boxes: 1000, labels: 1000, scores: 1, masks: 1, unmatched: 200}"
FLOWS = {
    "magicmind_mmdet": (
        "compile.magicmind.dim_range={input: {min: [1, 3, 128, 128], max: [2, 3, 256, 320]}}",
        ("mmdet_maskrcnn_dynamic", "mmdet_maskrcnn_mmcvroialign"),
    ),
    "magicmind_mmdet_800": ("", ("mmdet_maskrcnn_dynamic", "mmdet_maskrcnn_mmcvroialign")),
    "ascend_mmdet": (f"check.grant.fuse-batch-multiclass-nms={_ANYTHING}", ("mmdet_maskrcnn_dynamic",)),
}
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


@pytest.mark.parametrize("name", ON_RISCV)
def test_the_flow_for_riscv_makes_what_its_runner_takes(cli: Cli, tmp_path: Path, image: Path, name: str) -> None:
    outcome = apply(cli, tmp_path, ON_RISCV[name].recipe, *given(name, case=ON_RISCV[name]))
    assert outcome.code == 0, outcome.err
    operators = {node.op_type for node in Model.load(tmp_path / "parts" / "backbone_rpn.onnx").proto.graph.node}
    assert operators == {"Conv", "Relu", "Add", "Resize", "MaxPool"}  # each BatchNorm is in its Conv
    manifest = Manifest.read(tmp_path / "parts")
    sampled = {part.name: list(part.sampled.values()) for part in manifest.parts if part.accelerator}
    assert ON_RISCV[name].recipe != "riscv_zoo" or sampled["box_head"] == [[1, 2, 3]]  # its shape is computed
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


@pytest.mark.parametrize(("recipe", "name"), [(recipe, name) for recipe in FLOWS for name in FLOWS[recipe][1]])
def test_the_flow_of_a_vendor_runs_on_its_file(cli: Cli, tmp_path: Path, recipe: str, name: str) -> None:
    values = [f"source.onnx={FOLDER / name}.onnx", "source.size=[256, 320]", "capture.samples=1", FLOWS[recipe][0]]
    outcome = apply(cli, tmp_path, recipe, *filter(None, values))
    assert outcome.code == 0, outcome.err
    run = json.loads((tmp_path / "parts" / "run.json").read_text("utf-8"))
    assert {step["verdict"] for step in (*run["passes"], *run["checks"])} == {"passed"}
    assert (tmp_path / "parts" / "compiled" / recipe.partition("_")[0] / "compiled.json").is_file()


@pytest.mark.parametrize("mmcv_ops", [False, True])
def test_the_embedded_detector_is_spelled_as_the_tool_spells_its_own(tmp_path: Path, mmcv_ops: bool) -> None:
    pytest.importorskip("torch")
    from spellings import mmdet

    own = mmdet.written(tmp_path / "own.onnx", mmdet.Export(aligned=True, mmcv_ops=mmcv_ops))
    theirs = FOLDER / f"mmdet_maskrcnn_{'mmcvroialign' if mmcv_ops else 'dynamic'}.onnx"
    spelled, wanted = (words_of(onnx.load(path)) for path in (own, theirs))
    assert spelled == wanted


def words_of(model: onnx.ModelProto) -> dict[str, set[tuple[str, ...]]]:
    """Return the operators around those that tell a spelling: before each of their inputs, and behind them."""
    writers = {name: node for node in model.graph.node for name in node.output}
    telling = ("NonMaxSuppression", "ScatterND", "RoiAlign", "MMCVRoiAlign", "Resize", "grid_sampler")
    found: dict[str, set[tuple[str, ...]]] = {}
    for node in model.graph.node:
        if node.op_type in telling:
            around = found.setdefault(node.op_type, set())
            for index, name in enumerate(node.input):
                chain = [str(index)]
                while name in writers and len(chain) < 5 and writers[name].op_type not in ("Conv", "Add"):
                    chain.append(writers[name].op_type)
                    name = next(iter(writers[name].input), "")
                around.add(tuple(chain))
            readers = [each.op_type for each in model.graph.node if set(node.output) & set(each.input)]
            around.add(("behind", *sorted(readers)))
    return found


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


@pytest.mark.parametrize("name", [name for name in (*CASES, *CUSTOM) if "rcnn" in name and "ascend" not in name])
def test_nms_of_the_rpn_and_of_the_heads_becomes_one_operator_each(name: str) -> None:
    passes = registry.discover()
    size = {"height": 256, "width": 320} if name in CUSTOM else {}
    steps = [
        passes.get("drop-initializer-inputs")(),
        passes.get("freeze-shapes")(batch=1, **size),
        passes.get("simplify")(),
        passes.get("raise-opset")(opset=17),
        passes.get("fuse-batch-multiclass-nms")(),
    ]
    fused = apply_passes(steps, Model.load(FOLDER / f"{name}.onnx"))
    nodes = [node for node in fused.model.proto.graph.node if node.op_type == "BatchMultiClassNMS"]
    numbers = {each.name: each for each in nodes[0].attribute}, {each.name: each for each in nodes[1].attribute}
    assert [each["max_total_size"].i for each in numbers] == [1000, 100], fused.skips
    assert [each["score_threshold"].f for each in numbers] == pytest.approx([0, 0.05])
    left = {node.op_type for node in fused.model.proto.graph.node}
    assert not left & {"If", "Loop", "NonMaxSuppression", "GatherND"}
    for value in fused.model.proto.graph.output:
        assert all(size.HasField("dim_value") for size in value.type.tensor_type.shape.dim)
    fused.model.check(name)


def test_no_exact_pass_trips_over_custom_operators() -> None:
    model = Model.load(FOLDER / "detectron2_04_maskrcnn_ascend.onnx")
    after = apply_passes([registry.discover().get(each)() for each in exact_passes()], model).model
    assert [value.name for value in after.proto.graph.output] == [value.name for value in model.proto.graph.output]


# --- Ascend's flow for detectron2, against what Huawei's changes to detectron2 export

# Operators of ours and of theirs, both simplified, where they are not as many
DIFFERENT = {
    # theirs sorts [HWA] in place of [1, HWA]: a Reshape before each TopK, where ours has a Flatten, and two behind it
    "Flatten": (6, 1),
    "Reshape": (29, 29 + 5 + 2 * 5 + 1),  # and one of the RPN's scores, which nothing reads in the end
    # theirs joins boxes and scores [n, 5], and takes them apart again: of the proposals, and of the detections
    "Concat": (12, 12 + 2),
    "Slice": (25, 25 + 2),
    "Transpose": (13, 13 + 1),  # the scores of the detections are a row of what is transposed
    "Gather": (19, 19 + 1),
    "Cast": (8, 8 + 1),  # the RPN's scores
}


def ascends(name: str, *, sigmoid: bool) -> Model:
    """Return what the recipe's passes make of a file; without the `sigmoid` as Huawei has it."""
    recipe = load_recipe("ascend_detectron2", [f"source.onnx={FOLDER / name}.onnx"], registry=registry.discover())
    passes = [use.pass_ for use in recipe.passes]
    passes = [replace(each, sigmoid=sigmoid) if hasattr(each, "sigmoid") else each for each in passes]
    source = open_source(recipe.source)
    return apply_passes(passes, Model(source.export()), PassContext(canvas=(320, 320))).model


def operators_of(model: Model) -> Counter[str]:
    return Counter(node.op_type for node in model.proto.graph.node)


def test_ascends_recipe_gives_the_graph_that_huawei_exports() -> None:
    theirs = Model.load(FOLDER / "detectron2_04_maskrcnn_ascend.onnx")
    known = registry.discover()
    theirs = apply_passes([known.get("freeze-shapes")(batch=1), known.get("simplify")()], theirs).model
    ours = ascends("detectron2_04_maskrcnn_stock", sigmoid=False)
    count, other = operators_of(ours), operators_of(theirs)
    assert {op: (count[op], other[op]) for op in {*count, *other} if count[op] != other[op]} == DIFFERENT
    for model in (ours, theirs):
        shapes = [declared_shape(value) for value in model.proto.graph.output]
        assert shapes == [[100, 4], [100], [100], [100, 80, 28, 28]]
    assert [declared_shape(value) for value in ours.proto.graph.input] == [[1, 3, 320, 320]]
    kept = operators_of(ascends("detectron2_04_maskrcnn_stock", sigmoid=True)) - count
    assert kept == {"Sigmoid": 1}


@pytest.mark.parametrize("sigmoid", [False, True])
def test_ascends_recipe_finds_what_huaweis_graph_finds(sigmoid: bool) -> None:
    theirs = Model.load(FOLDER / "detectron2_04_maskrcnn_ascend.onnx")
    ours = ascends("detectron2_04_maskrcnn_stock", sigmoid=sigmoid)
    for number in range(2):
        image = np.asarray(Image.fromarray(draw(0, number).image).resize((320, 320)), np.float32)
        given = (
            image[None, ..., ::-1].transpose(0, 3, 1, 2)
            - np.array([103.53, 116.28, 123.675], np.float32)[:, None, None]
        )
        found = [list(session.run(each.proto, {each.inputs[0]: given}).values()) for each in (ours, theirs)]
        (boxes, scores, labels, masks), (other_boxes, other_scores, other_labels, other_masks) = found
        match = match_rows(Keys(boxes, labels, scores), Keys(other_boxes, other_labels, other_scores))
        mine, other = match.reference, match.candidate
        near = np.abs(boxes[mine] - other_boxes[other]).max(axis=1) <= 0.05
        alike = near & (np.abs(scores[mine] - other_scores[other]) <= 1e-3)
        alike &= np.abs(masks[mine] - other_masks[other]).max(axis=(1, 2, 3)) <= 1e-3
        assert alike.sum() >= (95 if sigmoid else 100)


@pytest.mark.parametrize("name", ["detectron2_04_maskrcnn_stock", "detectron2_maskrcnn_opset17"])
def test_ascends_recipe_passes_its_checks(cli: Cli, tmp_path: Path, name: str) -> None:
    outcome = apply(cli, tmp_path, "ascend_detectron2", f"source.onnx={FOLDER / name}.onnx", "capture.samples=1")
    assert outcome.code == 0, outcome.err
    left = operators_of(Model.load(tmp_path / "parts" / "ascend_detectron2.onnx"))
    assert not {"If", "Loop", "NonZero", "NonMaxSuppression", "RoiAlign", "Shape"} & set(left)


def test_the_shapes_in_detectron2s_spelling_have_its_operators_in_its_order() -> None:
    scopes = ("proposal_generator", "anchor_generator", "box_pooler", "mask_pooler", "roi_heads", "mask_head", "")
    files = Model.load(FOLDER / "detectron2_04_maskrcnn_stock.onnx").proto, exported(11)
    for scope in scopes:
        own, theirs = (
            [
                node.op_type
                for node in proto.graph.node
                if node.op_type != "Constant" and node.name.startswith("/") and node.name.split("/")[-2] == scope
            ]
            for proto in files
        )
        assert own == theirs
        assert own


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
