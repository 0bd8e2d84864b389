"""`apply`, from a detector to checked parts: what comes out, and that nothing broken gets through."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import PARTS, Applied, Cli, Outcome, Snapshot
from gate.usual_rows import compare

import graphsurgery
from graphsurgery.capture.samples import Capture
from graphsurgery.demo.shapes import CAPTURE_SEED, draw
from graphsurgery.errors import ModelError
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.graph.model import Model
from graphsurgery.graph.names import clean_name
from graphsurgery.images.canvas import CanvasImage
from graphsurgery.sources import Source, SourceSpec, open_source
from graphsurgery.testing import parse

ACCELERATED = ("backbone_rpn", "box_head", "mask_head")
# What an accelerator part may hold
ALLOWED = {"Conv", "ConvTranspose", "Gemm", "Relu", "Add", "MaxPool", "Resize", "Flatten", "AveragePool"}
LEVELS = range(5)
BACKBONE = {f"{kind}_{n}" for kind in ("objectness", "pred_bbox_deltas") for n in LEVELS}
BACKBONE |= {f"features_{n}" for n in range(4)}  # what RoIAlign reads; the fifth level only proposes

# What widening the 1x1 MaxPool of the embedded detector costs on its samples; the README gives the same numbers.
GRANT = "{objectness_4: 12, pred_bbox_deltas_4: 1.8, boxes: 15, scores: 0.4, masks: 1, unmatched: 5}"

BROKEN = '''\
"""Passes that break a graph, each in a way of its own."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import is_op, set_outputs
from graphsurgery.rewrite import Editor, GraphPass


def first(graph: gs.Graph, *ops: str) -> gs.Node:
    return next(node for node in graph.nodes if is_op(node, *ops))


@dataclass(frozen=True)
class DropFirstRelu(GraphPass):
    name = "drop-first-relu"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        node = first(graph, "Relu")
        edit.bypass(node, node.inputs[0])


@dataclass(frozen=True)
class ScaleWeight(GraphPass):
    name = "scale-weight"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        node = first(graph, "Conv")
        edit.set_input(node, 1, edit.constant("scaled", node.inputs[1].values * np.float32(1.01)))


@dataclass(frozen=True)
class SwapOutputs(GraphPass):
    """Swaps two outputs of the same type and rank, so that nothing but their values tells."""

    name = "swap-outputs"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        one, other = alike(graph.outputs)
        writers = one.inputs[0], other.inputs[0]
        taken = [list(writer.outputs) for writer in writers]
        for writer, outputs in zip(writers, taken):
            swapped = {id(one): other, id(other): one}
            set_outputs(writer, [swapped.get(id(tensor), tensor) for tensor in outputs])
        edit.edits += 1


def alike(outputs: list[gs.Tensor]) -> tuple[gs.Tensor, gs.Tensor]:
    for one in outputs:
        for other in outputs:
            if one is not other and one.dtype == other.dtype and len(one.shape) == len(other.shape):
                return one, other
    return outputs[0], outputs[1]


@dataclass(frozen=True)
class ReturnNan(GraphPass):
    name = "return-nan"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        node = first(graph, "Conv")
        weight = node.inputs[1].values.copy()
        weight.flat[0] = np.nan
        edit.set_input(node, 1, edit.constant("spoiled", weight))


@dataclass(frozen=True)
class LoseOutput(GraphPass):
    name = "lose-output"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        del graph.outputs[-1]


@dataclass(frozen=True)
class LeaveAlone(GraphPass):
    name = "leave-alone"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        edit.skip(None, "it leaves everything alone")
'''


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "broken.py"
    path.write_text(BROKEN, encoding="utf-8")
    return path


def manifest(applied: Applied) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((applied.folder / "manifest.json").read_text(encoding="utf-8"))
    return content


def steps(applied: Applied) -> list[dict[str, Any]]:
    return [*applied.run["passes"], *applied.run["checks"]]


# --- what comes out ---------------------------------------------------------------------------------------------


def test_the_embedded_detector_becomes_six_parts_that_all_passed(shapes: Applied) -> None:
    run = shapes.run
    assert [part["name"] for part in run["parts"]] == list(PARTS)
    assert [part["device"] for part in run["parts"]] == ["npu", "cpu"] * 3
    assert {step["verdict"] for step in steps(shapes)} == {"passed"}
    assert [step["name"] for step in run["passes"][:3]] == ["freeze-shapes", "drop-preprocessing", "simplify"]
    assert [step["name"] for step in run["checks"]] == ["export", *["partition"] * 6, "chain"]
    assert {path.name for path in shapes.folder.iterdir()} == {
        *(f"{name}.onnx" for name in PARTS),
        "manifest.json",
        "run.json",
        "report.html",
    }


@pytest.mark.parametrize("name", ACCELERATED)
def test_an_accelerator_part_is_static_and_holds_nothing_but_layers(shapes: Applied, name: str) -> None:
    model = onnx.load(shapes.folder / f"{name}.onnx")
    assert {node.op_type for node in model.graph.node} <= ALLOWED
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    known = {info.name: info.type.tensor_type.shape for info in (*graph.input, *graph.value_info, *graph.output)}
    for tensor in (*(info.name for info in graph.input), *(name for node in graph.node for name in node.output)):
        assert all(dim.HasField("dim_value") for dim in known[tensor].dim), tensor


def test_boundary_tensors_have_the_names_of_what_the_original_computes(shapes: Applied) -> None:
    content = manifest(shapes)
    parts = {part["name"]: part for part in content["parts"]}
    assert content["input"] == "input_backbone"
    assert list(parts["backbone_rpn"]["inputs"]) == ["input_backbone"]
    assert set(parts["backbone_rpn"]["outputs"]) == BACKBONE
    assert list(parts["box_head"]["inputs"]) == ["box_features"]
    assert set(parts["box_head"]["outputs"]) == {"class_logits", "box_regression"}
    assert list(parts["mask_head"]["inputs"]) == ["mask_features"]
    assert list(parts["mask_head"]["outputs"]) == ["mask_logits"]
    assert content["outputs"] == ["boxes", "labels", "scores", "masks"]
    assert parts["box_head"]["batch"] == {
        "size": 250,
        "inputs": ["box_features"],
        "outputs": list(parts["box_head"]["outputs"]),
    }
    assert parts["mask_head"]["batch"] == {"size": 20, "inputs": ["mask_features"], "outputs": ["mask_logits"]}


def test_run_json_says_what_was_done(shapes: Applied) -> None:
    run = shapes.run
    assert set(run) >= {"recipe", "source", "passes", "checks", "parts", "evaluation", "seconds", "peak_rss_mb"}
    assert run["recipe"]["name"] == "shapes"
    assert run["source"]["weights_sha256"]
    assert {"export", "capture", "surgery", "checks", "write", "latency", "total"} <= set(run["seconds"])
    assert run["peak_rss_mb"] > 0
    for step in run["passes"]:
        wanted = {"name", "part", "effect", "nodes_before", "nodes_after", "seconds", "skips", "verdict", "worst"}
        assert wanted <= set(step)
        assert {"tensor", "max_abs", "max_rel", "allowed"} <= set(step["worst"])
    freeze = next(step for step in run["passes"] if step["name"] == "freeze-shapes")
    assert freeze["nodes_before"] > freeze["nodes_after"]
    for part in run["parts"]:
        assert {"name", "device", "file", "nodes", "inputs", "outputs", "ops"} <= set(part)


def test_the_captured_samples_cover_an_empty_image_and_another_size(shapes: Applied) -> None:
    samples = Capture.open(shapes.model_io).samples
    assert any(len(sample.load("boxes")) == 0 for sample in samples)
    assert any((sample.height, sample.width) != (256, 320) for sample in samples)


def test_without_a_partition_the_graph_stays_in_one_part(uncut: Applied) -> None:
    content = manifest(uncut)
    assert [part["name"] for part in content["parts"]] == ["shapes"]
    assert content["outputs"] == ["boxes", "labels", "scores", "masks"]
    assert {step["verdict"] for step in steps(uncut)} == {"passed"}


def test_a_detector_in_an_onnx_file_is_taken_apart_too(detector: Applied) -> None:
    content = manifest(detector)
    assert [part["name"] for part in content["parts"]] == list(PARTS)
    assert {step["verdict"] for step in steps(detector)} == {"passed"}
    boundary = {name for part in content["parts"] for name in part["outputs"]} - set(content["outputs"])
    assert len(boundary) > len(BACKBONE)
    graph = onnx.load(detector.folder.parent / "detector.onnx").graph
    own = {name for node in graph.node for name in node.output}
    assert boundary <= own | {clean_name(name) for name in own}  # there are no modules to name them after


def test_an_exporters_onnx_file_goes_through_the_whole_recipe(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    exported = open_source(SourceSpec("demo", "shapes", size=(128, 160))).export()
    onnx.save(exported, tmp_path / "exported.onnx")
    recipe = tmp_path / "exported.yaml"
    recipe.write_text(
        "extends: shapes\nsource: {onnx: exported.onnx, size: [128, 160]}\nevaluate:\nvariants:\n", encoding="utf-8"
    )
    folder, model_io = tmp_path / "parts", tmp_path / "model_io"
    outcome = cli("apply", recipe, "--out", folder, "--model-io", model_io)
    assert outcome.code == 0, outcome.err
    applied = Applied(folder, model_io, outcome)
    assert [part["name"] for part in manifest(applied)["parts"]] == list(PARTS)
    assert {step["verdict"] for step in steps(applied)} == {"passed"}
    # the preprocessing is the runtime's now, and the file's own output is what it has to give
    image = draw(CAPTURE_SEED, 0, size=(128, 160), objects=4).image
    found = graphsurgery.load(folder)(image)
    expected = open_source(SourceSpec("onnx", str(tmp_path / "exported.onnx"))).detect(
        graphsurgery.load(folder).canvas.fit(image)
    )
    assert len(found["boxes"]) > 0
    compared = compare(
        {name: expected[name] for name in ("boxes", "labels", "scores")},
        {name: found[name] for name in ("boxes", "labels", "scores")},
        Tolerances.parse({"boxes": 1e-3, "labels": 0, "scores": 1e-4}),
    )
    assert compared.verdict == "passed", compared.explain()
    # whatever the file calls its mask probabilities, the runtime pastes them; the file itself pasted on the canvas,
    # which is as large as this image
    assert found["masks"].shape == (len(found["boxes"]), 1, 128, 160)
    pasted = open_source(SourceSpec("onnx", str(tmp_path / "exported.onnx"))).trace(
        graphsurgery.load(folder).canvas.fit(image)
    )
    np.testing.assert_allclose(found["masks"], pasted["masks_pasted"], atol=1e-3)


# Four layers for one picture, without a detector's names.
LAYERS = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 16, 16] image) => (float[1, 4, 16, 16] y, float[1, 4, 16, 16] z)
    <float[4, 3, 3, 3] w1, float[4, 4, 3, 3] w2, float[4] b, float k = {0.01}> {
        a = Conv <pads = [1, 1, 1, 1]> (image, w1, b)
        r = Relu (a)
        s = Mul (r, k)
        y = Conv <pads = [1, 1, 1, 1]> (s, w2, b)
        z = Conv <pads = [1, 1, 1, 1]> (r, w2, b)
    }"""


@pytest.mark.parametrize(
    "plan",
    [
        "passes: [quantize]",
        "passes: [quantize, drop-identity]",
        "passes: [{quantize: {activations: uint16}}]\npartition: {at: RoiAlign, parts: {net: npu}}",
        "partition: {at: RoiAlign, parts: {net: npu}}\npart_passes: {net: [{quantize: {activations: uint16}}]}",
    ],
)
def test_a_network_of_layers_is_quantized_in_whole_or_as_a_part(cli: Cli, tmp_path: Path, plan: str) -> None:
    from PIL import Image

    model, random = parse(LAYERS), np.random.default_rng(0)
    for name, shape in (("w1", (4, 3, 3, 3)), ("w2", (4, 4, 3, 3)), ("b", (4,))):
        value = random.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        model.graph.value_info.remove(next(info for info in model.graph.value_info if info.name == name))
    onnx.save(model, tmp_path / "layers.onnx")
    (tmp_path / "images").mkdir()
    for number in range(4):
        pixels = random.integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    recipe = tmp_path / "layers.yaml"
    grant = 'check: {grant: {quantize: {"*": {sqnr: 30}}}}'
    recipe.write_text(f"source: {{onnx: layers.onnx}}\n{plan}\n{grant}\n", encoding="utf-8")
    outcome = cli(
        *("apply", recipe, "--images", tmp_path / "images", "--out", tmp_path / "parts"),
        *("--model-io", tmp_path / "model_io"),
    )
    assert outcome.code == 0, outcome.err
    (file,) = (tmp_path / "parts").glob("*.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in onnx.load(file).graph.node}


CLASSES = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 16, 16] image) => (int64[1, 1, 16, 16] labels, float[1, 4, 16, 16] y)
    <float[4, 3, 1, 1] w = {1, -2, 3, -4, 5, -6, 7, -8, 9, -10, 11, -12}, float[4, 1, 1] b = {0, 1, 2, 3}> {
        a = Conv (image, w)
        labels = ArgMax <axis = 1> (a)
        f = Cast <to = 1> (labels)
        y = Mul (f, b)
    }"""


CUT = "partition: {at: ArgMax, parts: {net: npu, classes: cpu}}"


@pytest.mark.parametrize(
    "plan",
    [
        'passes: [{cast-outputs: {outputs: {"*": int32}}}, simplify]',
        f"passes: [{{cast-outputs: {{outputs: {{labels: int32}}}}}}]\n{CUT}",
        f"{CUT}\npart_passes: {{classes: [{{cast-outputs: {{outputs: {{labels: int32}}}}}}]}}",
    ],
)
def test_an_output_of_another_integer_type_is_compared_by_its_numbers(cli: Cli, tmp_path: Path, plan: str) -> None:
    onnx.save(parse(CLASSES), tmp_path / "classes.onnx")
    recipe, parts = tmp_path / "classes.yaml", tmp_path / "parts"
    check = "check: {tolerance: {y: 1.0e-5, labels: 0}}"
    recipe.write_text(f"source: {{onnx: classes.onnx}}\ncapture: {{samples: 2}}\n{plan}\n{check}\n", encoding="utf-8")
    outcome = cli("apply", recipe, "--out", parts, "--model-io", tmp_path / "model_io")
    assert outcome.code == 0, outcome.err
    applied = Applied(parts, tmp_path / "model_io", outcome)
    assert {step["verdict"] for step in steps(applied)} == {"passed"}
    (labels,) = (part["outputs"]["labels"] for part in manifest(applied)["parts"] if "labels" in part["outputs"])
    assert labels["dtype"] == "int32"
    raw = graphsurgery.load(parts).raw(np.zeros((16, 16, 3), np.uint8))
    assert raw["labels"].dtype == np.int32


# --- images that were not captured ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original() -> Source:
    pytest.importorskip("torch")
    return open_source(SourceSpec("demo", "shapes", size=(256, 320)))


@pytest.mark.parametrize(
    ("size", "objects"),
    [
        ((256, 320), 4),
        ((256, 320), 0),
        ((320, 210), 4),
        ((500, 900), 5),
        ((90, 70), 2),
        ((1, 300), 0),
        ((300, 1), 0),
    ],
    ids=["captured size", "nothing to see", "portrait", "larger", "smaller", "1 pixel high", "1 pixel wide"],
)
def test_an_image_gives_what_the_original_gives(
    shapes: Applied, original: Source, size: tuple[int, int], objects: int
) -> None:
    drawn = draw(7, 0, size=(max(size[0], 60), max(size[1], 60)), objects=objects).image
    image = np.ascontiguousarray(drawn[: size[0], : size[1]])
    detector = graphsurgery.load(shapes.folder)
    placed = original.canvas.fit(image)
    expected = original.detect(placed)
    found = detector(image)
    ratio = max(size[0] / placed.height, size[1] / placed.width)
    tolerances = Tolerances.parse({"boxes": 1e-3 * max(ratio, 1), "labels": 0, "scores": 1e-4})
    if objects == 0:
        assert len(expected["boxes"]) == len(found["boxes"]) == 0
        assert found["masks"].shape == (0, 1, *size)
        return
    assert len(expected["boxes"]) > 0
    compared = compare(
        {name: by_torchvision(expected, placed)[name] for name in ("boxes", "labels", "scores")},
        {name: found[name] for name in ("boxes", "labels", "scores")},
        tolerances,
    )
    assert compared.verdict == "passed", compared.explain()
    pasted = by_torchvision(detector.on_canvas(placed), placed)
    np.testing.assert_allclose(found["boxes"], pasted["boxes"], rtol=1e-6)
    np.testing.assert_allclose(found["masks"], pasted["masks"], atol=1e-5)
    for kind, theirs in placed.restore(expected).items():
        np.testing.assert_allclose(theirs, by_torchvision(expected, placed)[kind], rtol=1e-6, atol=1e-5)


def by_torchvision(detections: dict[str, np.ndarray], placed: CanvasImage) -> dict[str, np.ndarray]:
    """Map detections on the canvas back to the image with torchvision's own functions."""
    import torch
    from torchvision.models.detection.roi_heads import paste_masks_in_image
    from torchvision.models.detection.transform import resize_boxes

    boxes = torch.from_numpy(np.array(detections["boxes"], np.float32))
    boxes = resize_boxes(boxes, [placed.height, placed.width], list(placed.original))
    masks = paste_masks_in_image(torch.from_numpy(np.array(detections["masks"])), boxes, placed.original)
    return {**detections, "boxes": boxes.numpy(), "masks": masks.numpy()}


# --- nothing broken gets through --------------------------------------------------------------------------------


def complaint(outcome: Outcome) -> str:
    """The line of the error; behind it may stand one that says where the difference begins."""
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("error: "))
    return line


def without_failed(content: dict[str, str]) -> dict[str, str]:
    """What is in a folder but for the graphs that a failed run leaves there."""
    return {name: value for name, value in content.items() if not name.partition("/")[0].endswith(".failed")}


@pytest.mark.parametrize("name", ["drop-first-relu", "scale-weight", "swap-outputs", "return-nan", "lose-output"])
@pytest.mark.parametrize("where", ["whole", "part"])
def test_a_broken_pass_is_caught_and_named(
    cli: Cli, snapshot: Snapshot, detector: Applied, broken: Path, where: str, name: str
) -> None:
    root = detector.folder.parent
    before = without_failed(snapshot(root))
    value = f"passes=[{name}]" if where == "whole" else f"part_passes.backbone_rpn=[{name}]"
    outcome = cli(
        *("apply", root / "detector.yaml", "--out", detector.folder, "--model-io", detector.model_io),
        *("--plugin", broken, "--set", value),
    )
    assert outcome.code == 1, outcome.err
    assert f"pass '{name}'" in complaint(outcome)
    assert ("on part 'backbone_rpn'" in complaint(outcome)) == (where == "part")
    assert "differs from the original model" in complaint(outcome) or "breaks the graph" in complaint(outcome)
    assert "Traceback" not in outcome.err
    assert "failed" in outcome.out
    assert without_failed(snapshot(root)) == before


def test_a_broken_pass_is_caught_against_the_torch_model(
    cli: Cli, snapshot: Snapshot, shapes: Applied, broken: Path
) -> None:
    before = without_failed(snapshot(shapes.folder.parent))
    outcome = cli(
        *("apply", "shapes", "--out", shapes.folder, "--model-io", shapes.model_io, "--plugin", broken),
        *("--set", "passes=[scale-weight]", "--set", "evaluate=", "--set", "capture.samples=3"),
    )
    assert outcome.code == 1, outcome.err
    assert "pass 'scale-weight' differs from the original model: " in complaint(outcome)
    assert without_failed(snapshot(shapes.folder.parent)) == before


@pytest.mark.parametrize("where", ["whole", "part"])
def test_the_place_of_the_difference_is_named_with_the_command_that_shows_it(
    cli: Cli, snapshot: Snapshot, detector: Applied, broken: Path, tmp_path: Path, where: str
) -> None:
    out = tmp_path / "parts"
    value = "passes=[scale-weight]" if where == "whole" else "part_passes.box_head.0=scale-weight"
    outcome = cli(
        *("apply", detector.folder.parent / "detector.yaml", "--out", out, "--model-io", detector.model_io),
        *("--plugin", broken, "--set", value),
    )
    assert outcome.code == 1
    failed = tmp_path / "parts.failed"
    before = onnx.load(failed / "before.onnx")
    first = next(node for node in before.graph.node if node.op_type == "Conv")
    assert outcome.last_line.startswith(f"first difference: tensor '{first.output[0]}' (Conv '{first.name}'): ")
    run = json.loads((failed / "run.json").read_text(encoding="utf-8"))
    assert run["first_difference"]["title"] == f"tensor '{first.output[0]}'"
    assert run["passes"][-1]["changes"]["places"][0]["title"] == "Conv -> Conv"
    _, _, command = outcome.last_line.partition("; see it again: python -m graphsurgery ")
    shown = cli(*shlex.split(command))
    assert shown.code == 1
    assert f"tensor '{first.output[0]}'" in shown.last_line
    assert [path.name for path in tmp_path.iterdir()] == ["parts.failed"]


def test_the_graphs_of_the_last_failed_run_are_kept_and_a_good_run_leaves_them(
    cli: Cli, snapshot: Snapshot, detector: Applied, broken: Path, tmp_path: Path
) -> None:
    common = ("apply", detector.folder.parent / "detector.yaml", "--out", tmp_path / "parts")
    common = (*common, "--model-io", detector.model_io, "--plugin", broken)
    for name in ("drop-first-relu", "return-nan"):
        assert cli(*common, "--set", f"passes=[{name}]").code == 1
    after = onnx.load(tmp_path / "parts.failed" / "after.onnx")
    assert any(tensor.name.startswith("spoiled") for tensor in after.graph.initializer)
    left = snapshot(tmp_path / "parts.failed")
    assert cli(*common).code == 0
    assert snapshot(tmp_path / "parts.failed") == left


def test_a_failure_is_told_where_its_graphs_cannot_be_kept(
    cli: Cli, detector: Applied, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Model.write

    def full(model: Model, path: Path) -> None:
        if path.name == "after.onnx":
            raise ModelError(f"{path}: can't be written (No space left on device)")
        write(model, path)

    monkeypatch.setattr(Model, "write", full)
    outcome = cli(
        *("apply", detector.folder.parent / "detector.yaml", "--out", tmp_path / "parts"),
        *("--model-io", detector.model_io, "--plugin", broken, "--set", "passes=[scale-weight]"),
    )
    assert outcome.code == 1
    assert "pass 'scale-weight' differs from the original model: " in outcome.last_line
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
        "parts.failed",
        "parts.failed/run.json",
        "parts.failed/report.html",
    }


def test_a_failed_run_tells_how_far_it_came(cli: Cli, detector: Applied, broken: Path, tmp_path: Path) -> None:
    report = tmp_path / "run.json"
    outcome = cli(
        *("apply", detector.folder.parent / "detector.yaml", "--out", tmp_path / "parts"),
        *("--model-io", detector.model_io, "--plugin", broken, "--set", "part_passes.box_head.0=drop-first-relu"),
        *("--json", report),
    )
    assert outcome.code == 1
    run = json.loads(report.read_text(encoding="utf-8"))
    verdicts = {(step["name"], step["part"]): step["verdict"] for step in run["passes"]}
    assert verdicts == {("replace-unit-maxpool", "backbone_rpn"): "passed", ("drop-first-relu", "box_head"): "failed"}
    assert "drop-first-relu" in outcome.out  # the table shows it too
    assert not (tmp_path / "parts").exists()


def test_an_accelerator_part_that_is_not_static_is_refused(cli: Cli, detector: Applied, tmp_path: Path) -> None:
    outcome = cli(
        *("apply", detector.folder.parent / "detector.yaml", "--out", tmp_path / "parts"),
        *("--model-io", detector.model_io, "--set", "part_passes.box_head=[]"),
    )
    assert outcome.code == 2
    assert "part 'box_head' is for npu but not static" in outcome.last_line
    assert not (tmp_path / "parts").exists()


def test_a_pass_that_changes_nothing_keeps_an_inconclusive_verdict(
    cli: Cli, detector: Applied, broken: Path, tmp_path: Path
) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.fromarray(draw(CAPTURE_SEED, 2, objects=0).image).save(tmp_path / "images" / "empty.png")
    folder, model_io = tmp_path / "parts", tmp_path / "model_io"
    outcome = cli(
        *("apply", detector.folder.parent / "detector.yaml", "--out", folder, "--model-io", model_io),
        *("--images", tmp_path / "images", "--plugin", broken, "--set", "passes=[leave-alone]"),
    )
    assert outcome.code == 0, outcome.err
    run = Applied(folder, model_io, outcome).run
    assert run["checks"][0]["verdict"] == "inconclusive"
    assert run["passes"][0]["verdict"] == "inconclusive"
    assert "inconclusive: leave-alone" in outcome.err


def test_unchecked_parts_are_written_loudly(cli: Cli, detector: Applied, broken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    outcome = cli(
        *("apply", detector.folder.parent / "detector.yaml", "--out", folder, "--model-io", detector.model_io),
        *("--no-check", "--plugin", broken, "--set", "passes=[drop-first-relu]"),
    )
    assert outcome.code == 0
    assert outcome.err.count("--no-check") == 2
    applied = Applied(folder, detector.model_io, outcome)
    assert {step["verdict"] for step in steps(applied)} == {"unchecked"}
    assert "passed" not in outcome.out


# --- approximate passes -----------------------------------------------------------------------------------------


WIDEN = ("--set", "evaluate=", "--set", "capture.samples=3", "--set", "part_passes.backbone_rpn=[widen-maxpool]")


def test_an_approximate_pass_fails_without_a_grant(cli: Cli, snapshot: Snapshot, shapes: Applied) -> None:
    before = without_failed(snapshot(shapes.folder.parent))
    outcome = cli("apply", "shapes", *WIDEN, "--out", shapes.folder, "--model-io", shapes.model_io)
    assert outcome.code == 1
    assert "pass 'widen-maxpool' on part 'backbone_rpn'" in complaint(outcome)
    assert outcome.last_line.startswith("first difference: tensor ")
    assert "(MaxPool " in outcome.last_line
    assert without_failed(snapshot(shapes.folder.parent)) == before


def test_a_granted_pass_goes_through_and_shows_what_it_cost(cli: Cli, shapes: Applied, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    grant = ("--set", f"check.grant.widen-maxpool={GRANT}")
    outcome = cli("apply", "shapes", *WIDEN, *grant, "--out", folder, "--model-io", shapes.model_io)
    assert outcome.code == 0, outcome.err
    run = Applied(folder, shapes.model_io, outcome).run
    step = next(step for step in run["passes"] if step["name"] == "widen-maxpool")
    assert step["effect"] == "approximate"
    assert step["verdict"] == "passed"
    cost = {tensor["name"]: (tensor["max_abs"], tensor["allowed"]) for tensor in step["comparison"]["tensors"]}
    assert 1 < cost["objectness_4"][0] < cost["objectness_4"][1] == 12
    assert cost["objectness_0"][0] < cost["objectness_0"][1] < 0.01  # nothing was granted there
    assert step["worst"]["tensor"] in ("objectness_4", "pred_bbox_deltas_4")
    chain = run["checks"][-1]
    assert chain["verdict"] == "passed"
    assert chain["worst"]["max_abs"] > 1e-3
    table = " ".join(outcome.out.split())
    assert "widen-maxpool ~" in table
    assert "~ approximate: judged by what the recipe grants it" in table


def test_the_readme_grants_what_the_tests_grant() -> None:
    readme = Path(__file__).parent.parent.parent.joinpath("README.md").read_text(encoding="utf-8")
    assert f"'check.grant.widen-maxpool={GRANT}'" in readme


def test_a_grant_to_one_part_does_not_loosen_another(cli: Cli, detector: Applied, broken: Path, tmp_path: Path) -> None:
    outcome = cli(
        *("apply", detector.folder.parent / "detector.yaml", "--out", tmp_path / "parts"),
        *("--model-io", detector.model_io, "--plugin", broken),
        *("--set", "part_passes.backbone_rpn=[widen-maxpool]", "--set", 'check.grant.widen-maxpool={"*": 1000.0}'),
        *("--set", "part_passes.box_head.0=scale-weight"),
    )
    assert outcome.code == 1
    assert "pass 'scale-weight' on part 'box_head'" in complaint(outcome)
