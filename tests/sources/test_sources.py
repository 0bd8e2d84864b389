"""Where graphs come from: torchvision's detectors, the demo, and ONNX files."""

from __future__ import annotations

import hashlib
import logging
import re
import subprocess
import sys
import urllib.error
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphsurgery.demo.shapes import draw, embedded_images
from graphsurgery.devices.session import run
from graphsurgery.errors import InputError, MissingTool, ModelError
from graphsurgery.graph.joined_outputs import JOINS_NOTE, JoinedOutput, write_note
from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import NORMALISATION_NOTE, TYPES_NOTE
from graphsurgery.graph.renaming import rename_tensors
from graphsurgery.images.canvas import CanvasImage
from graphsurgery.images.preprocessing import Preprocessing
from graphsurgery.sources import Source, SourceSpec, open_source

SIZE = (128, 160)
TWO_STAGE = ("shapes", "fasterrcnn_mobilenet_v3_large_320_fpn", "keypointrcnn_resnet50_fpn")
SINGLE_STAGE = ("retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large")
FAMILIES = (*TWO_STAGE, *SINGLE_STAGE)
LEVELS = {"fasterrcnn_mobilenet_v3_large_320_fpn": 3, "ssdlite320_mobilenet_v3_large": 6}


def spec(name: str, weights: str | None = "random:0", size: tuple[int, int] | None = SIZE, **rest: Any) -> SourceSpec:
    return SourceSpec("demo" if name == "shapes" else "torchvision", name, weights, size, **rest)


@cache
def opened(name: str) -> Source:
    pytest.importorskip("torchvision")
    source = open_source(spec(name))
    if name.startswith("keypoint"):  # its head takes 0.2 s for each detection
        source._model.roi_heads.detections_per_img = 12  # type: ignore[attr-defined]
    return source


@cache
def picture(name: str, index: int = 0) -> CanvasImage:
    return opened(name).canvas.fit(embedded_images(index + 1)[index].image)


@cache
def traced(name: str) -> dict[str, np.ndarray]:
    return opened(name).trace(picture(name))


def test_importing_sources_loads_neither_torch_nor_onnxruntime() -> None:
    code = "import sys, graphsurgery.sources; print([m for m in ('torch', 'onnxruntime') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_says_which_extra_brings_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingTool, match=r"graphsurgery\[torch\]"):
        open_source(spec("shapes"))


def test_refuses_a_kind_that_it_does_not_know() -> None:
    with pytest.raises(InputError, match="torchvision, demo or onnx"):
        open_source(SourceSpec("keras", "x"))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TWO_STAGE)
def test_captures_the_boundary_of_a_two_stage_detector(name: str) -> None:
    height, width = SIZE
    tensors = traced(name)
    shapes = {key: value.shape for key, value in tensors.items()}
    boxes, found = shapes["proposals"][0], shapes["boxes"][0]
    expected = {"input", "input_backbone", "proposals", "box_features", "class_logits", "box_regression"}
    expected |= {"boxes", "labels", "scores", "proposal_scores", "proposals_considered", "proposals_considered_scores"}
    for level in range(LEVELS.get(name, 5)):
        expected |= {f"{tensor}_{level}" for tensor in ("features", "objectness", "pred_bbox_deltas")}
        assert shapes[f"objectness_{level}"][2:] == shapes[f"features_{level}"][2:]
        assert shapes[f"pred_bbox_deltas_{level}"][1] == 4 * shapes[f"objectness_{level}"][1]
    if name == "shapes":
        expected |= {"mask_features", "mask_logits", "masks", "masks_pasted"}
        assert shapes["mask_logits"] == (found, 4, 28, 28)
        assert shapes["masks"] == (found, 1, 28, 28)
        assert shapes["masks_pasted"] == (found, 1, height, width)
    if name.startswith("keypoint"):
        expected |= {"keypoint_features", "keypoint_logits", "keypoints", "keypoints_scores"}
        assert shapes["keypoint_logits"] == (found, 17, 56, 56)
        assert shapes["keypoints"] == (found, 17, 3)
    assert set(tensors) == expected
    assert shapes["input"] == (3, height, width)
    assert shapes["input_backbone"] == (1, 3, height, width)
    assert shapes["proposals"] == (boxes, 4)
    assert shapes["box_features"][::2] == (boxes, 7)
    assert shapes["box_regression"] == (boxes, 4 * shapes["class_logits"][1])
    assert tensors["labels"].dtype == np.int64


def test_captures_what_the_proposals_are_worth_and_were_chosen_from() -> None:
    tensors = traced("shapes")
    considered = {
        tuple(box): score
        for box, score in zip(
            tensors["proposals_considered"].tolist(), tensors["proposals_considered_scores"].tolist(), strict=True
        )
    }
    scores = tensors["proposal_scores"].tolist()
    # a sigmoid of the same number differs by a rounding or two with its place among the others
    expected = [considered[tuple(box)] for box in tensors["proposals"].tolist()]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2**-22)
    assert scores == sorted(scores, reverse=True)
    assert len(considered) == sum(tensors[f"objectness_{level}"].size for level in range(5))


@pytest.mark.parametrize("name", SINGLE_STAGE)
def test_captures_the_boundary_of_a_single_stage_detector(name: str) -> None:
    tensors = traced(name)
    expected = {"input", "input_backbone", "boxes", "labels", "scores"}
    for level in range(LEVELS.get(name, 5)):
        expected |= {f"{tensor}_{level}" for tensor in ("features", "cls_logits", "bbox_regression")}
        if name.startswith("fcos"):
            expected.add(f"bbox_ctrness_{level}")
        anchors = tensors[f"bbox_regression_{level}"].shape[1] // 4
        assert tensors[f"cls_logits_{level}"].shape[:2] == (1, anchors * 91)
        assert tensors[f"cls_logits_{level}"].shape[2:] == tensors[f"features_{level}"].shape[2:]
    assert set(tensors) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_the_canvas_reaches_the_backbone_normalised_and_not_resized(name: str) -> None:
    tensors = traced(name)
    np.testing.assert_allclose(
        tensors["input_backbone"], opened(name).canvas.normalise(tensors["input"]), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_random_weights_find_something_with_scores_that_differ(name: str) -> None:
    scores = traced(name)["scores"]
    assert len(scores) >= 10
    assert len(np.unique(scores)) > 0.9 * len(scores)
    assert scores.max() > 2 * scores.min()


@pytest.mark.parametrize("name", FAMILIES)
def test_detect_gives_what_trace_ends_with(name: str) -> None:
    found = opened(name).detect(picture(name))
    expected = {"boxes", "labels", "scores"} | {"shapes": {"masks"}}.get(name, set())
    if name.startswith("keypoint"):
        expected |= {"keypoints", "keypoints_scores"}
    assert set(found) == expected
    for key, value in found.items():
        np.testing.assert_array_equal(value, traced(name)[key])


@pytest.mark.parametrize("name", FAMILIES)
def test_exported_outputs_carry_the_right_names(name: str) -> None:
    model = opened(name).export()
    onnx.checker.check_model(model)
    assert [value.name for value in model.graph.input] == ["input"]
    outputs = run(model, {"input": picture(name).input})
    expected = {"boxes", "labels", "scores"} | {"shapes": {"masks_pasted"}}.get(name, set())
    if name.startswith("keypoint"):
        expected |= {"keypoints", "keypoints_scores"}
    assert set(outputs) == expected
    tolerance = {"boxes": 5e-3, "scores": 1e-4, "labels": 0, "masks_pasted": 2e-3, "keypoints": 5e-2}
    for key, value in outputs.items():
        np.testing.assert_allclose(value, traced(name)[key], rtol=0, atol=tolerance.get(key, 5e-3), err_msg=key)
        assert value.dtype == traced(name)[key].dtype


def test_an_export_is_the_same_before_and_after_a_trace() -> None:
    first = opened("shapes").export()
    opened("shapes").trace(picture("shapes", 1))
    assert opened("shapes").export() == first


def test_exports_with_the_opset_that_is_asked_for() -> None:
    pytest.importorskip("torchvision")
    (entry,) = open_source(spec("shapes", opset=16)).export().opset_import
    assert entry.version == 16


def test_an_opset_that_the_exporter_lacks_is_one_line() -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(InputError, match="opset 99") as caught:
        open_source(spec("shapes", opset=99)).export()
    assert "\n" not in str(caught.value)


def test_the_exporter_says_nothing(
    capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    opened("shapes")
    recwarn.clear()
    with caplog.at_level(logging.DEBUG):
        opened("shapes").export()
    assert capfd.readouterr() == ("", "")
    assert list(recwarn) == []
    assert caplog.records == []


def test_logging_works_again_after_an_export(caplog: pytest.LogCaptureFixture) -> None:
    opened("shapes").export()
    logging.getLogger("graphsurgery").warning("heard")
    assert "heard" in caplog.text


def test_hooks_are_gone_after_a_trace() -> None:
    traced("shapes")
    model = opened("shapes")._model  # type: ignore[attr-defined]
    assert not any(module._forward_hooks for module in model.modules())


def test_without_detections_the_mask_branch_is_captured_empty() -> None:
    source = opened("shapes")
    heads = source._model.roi_heads  # type: ignore[attr-defined]
    before, heads.score_thresh = heads.score_thresh, 2.0
    try:
        tensors = source.trace(picture("shapes"))
    finally:
        heads.score_thresh = before
    assert tensors["boxes"].shape == (0, 4)
    assert tensors["mask_features"].shape == (0, 48, 14, 14)
    assert tensors["mask_logits"].shape == (0, 4, 28, 28)
    assert tensors["masks"].shape == (0, 1, 28, 28)
    assert tensors["masks_pasted"].shape == (0, 1, *SIZE)


def test_a_seed_gives_the_same_weights_again_and_leaves_torchs_own_generator_alone() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = open_source(spec("shapes"))
    assert torch.equal(torch.rand(3), expected)
    assert again.describe() == opened("shapes").describe()
    other = open_source(spec("shapes", "random:1")).describe()
    assert other["weights_sha256"] != again.describe()["weights_sha256"]


def test_a_seed_is_one_network_however_many_threads_torch_has() -> None:
    """dask gives its workers one; the original of what they made must be found by who has several."""
    pytest.importorskip("torchvision")
    from graphsurgery.sources.torch_threads import torch_threads

    def made(threads: int) -> object:
        given = SourceSpec("torchvision", "ssdlite320_mobilenet_v3_large", "random:0", (320, 320))
        with torch_threads(threads):
            return open_source(given).describe()["weights_sha256"]

    assert made(1) == made(3)


def test_first_version_networks_have_a_frozen_batchnorm_as_when_trained() -> None:
    pytest.importorskip("torchvision")
    from torch import nn
    from torchvision.ops import FrozenBatchNorm2d

    kinds = {type(module) for module in opened("retinanet_resnet50_fpn")._model.modules()}  # type: ignore[attr-defined]
    assert FrozenBatchNorm2d in kinds
    assert nn.BatchNorm2d not in kinds
    assert nn.BatchNorm2d in {type(module) for module in opened("shapes")._model.modules()}  # type: ignore[attr-defined]


def test_the_demo_has_weights_and_a_size_of_its_own() -> None:
    pytest.importorskip("torchvision")
    source = open_source(SourceSpec("demo", "shapes"))
    assert (source.canvas.height, source.canvas.width) == (256, 320)
    shown = embedded_images(1)[0]
    found = source.detect(source.canvas.fit(shown.image))
    sure = found["scores"] > 0.5
    assert Counter(shown.labels.tolist()) <= Counter(found["labels"][sure].tolist())


def test_describe_is_json_and_says_what_the_model_is() -> None:
    described = opened("shapes").describe()
    assert list(described) == ["kind", "name", "weights", "weights_sha256", "size", "opset"]
    assert described["size"] == list(SIZE)
    assert len(str(described["weights_sha256"])) == 64


def test_an_unknown_builder_is_answered_with_close_ones() -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(InputError, match="maskrcnn_resnet50_fpn_v2"):
        open_source(spec("maskrcnn_resnet50_v2"))
    with pytest.raises(InputError, match="write demo: shapes"):
        open_source(SourceSpec("demo", "cats"))


@pytest.mark.parametrize(("height", "near"), [(130, "take 128 or 160$"), (0, "take 32$"), (-32, "take 32$")])
def test_a_size_off_the_stride_is_answered_with_the_next_ones(height: int, near: str) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(InputError, match=near):
        open_source(spec("shapes", size=(height, 160)))


def test_a_size_that_ssd_shrinks_to_nothing_is_refused() -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(InputError, match="too small for ssd300_vgg16"):
        open_source(spec("ssd300_vgg16", size=(128, 160)))


def test_a_portrait_canvas_is_not_resized_either() -> None:
    pytest.importorskip("torchvision")
    for name in ("shapes", "ssdlite320_mobilenet_v3_large"):
        source = open_source(spec(name, size=(192, 128)))
        tensors = source.trace(source.canvas.fit(embedded_images(1)[0].image))
        assert tensors["input_backbone"].shape == (1, 3, 192, 128)


def test_a_network_without_size_or_weights_asks_for_them() -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(InputError, match=r"source\.size: .* write size"):
        open_source(spec("fasterrcnn_mobilenet_v3_large_320_fpn", size=None))
    with pytest.raises(InputError, match="COCO_V1, a file, or random:0"):
        open_source(spec("fasterrcnn_mobilenet_v3_large_320_fpn", weights=None))


@pytest.mark.parametrize("weights", ["random:", "random:x", "random:-1"])
def test_a_seed_that_is_none_is_refused(weights: str) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(InputError, match="such as random:0"):
        open_source(spec("shapes", weights))


def test_unknown_weights_are_answered_with_the_known() -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(InputError, match=r"COCO_LEGACY, COCO_V1.*random:<seed>"):
        open_source(spec("keypointrcnn_resnet50_fpn", "COCO_V9"))
    with pytest.raises(InputError, match=r"neither a \.pth"):
        open_source(spec("shapes", "COCO_V1"))


def test_offline_the_other_two_ways_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub = pytest.importorskip("torch.hub")

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(hub, "download_url_to_file", refuse)
    with pytest.raises(MissingTool, match=r"no route to host.*\.safetensors file.*random:<seed>") as caught:
        open_source(spec("ssdlite320_mobilenet_v3_large", "COCO_V1"))
    assert caught.value.exit_code == 3
    assert capfd.readouterr() == ("", "")


def test_weights_from_either_kind_of_file_are_those_that_were_saved(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    state = opened("shapes")._model.state_dict()  # type: ignore[attr-defined]
    safetensors.save_file(state, tmp_path / "a.safetensors")
    torch.save({"model": state}, tmp_path / "b.pth")
    for file, folder in (("a.safetensors", tmp_path), (f"{tmp_path.name}/b.pth", tmp_path.parent)):
        described = open_source(spec("shapes", file, folder=folder)).describe()
        assert described["weights_sha256"] == opened("shapes").describe()["weights_sha256"]
        assert described["weights"] == Path(file).name


def test_the_number_of_classes_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    detection = pytest.importorskip("torchvision.models.detection")
    name = "ssdlite320_mobilenet_v3_large"
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    torch.save(model.state_dict(), tmp_path / "five.pth")
    source = open_source(spec(name, "five.pth", folder=tmp_path))
    assert source.trace(picture(name))["cls_logits_0"].shape[1] == 6 * 5


def test_a_state_dict_that_does_not_fit_is_one_line_with_name_and_shapes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    state = dict(opened("shapes")._model.state_dict())  # type: ignore[attr-defined]
    complete = dict(state)
    state["rpn.head.cls_logits.weight"] = torch.zeros(7, 48, 1, 1)
    torch.save(state, tmp_path / "shape.pth")
    state = dict(complete)
    del state["rpn.head.cls_logits.weight"]
    torch.save(state, tmp_path / "missing.pth")
    torch.save({**complete, "teacher.weight": torch.zeros(1)}, tmp_path / "extra.pth")
    for file, words in (
        ("shape.pth", r"'rpn\.head\.cls_logits\.weight' is \[7, 48, 1, 1\], should be \[3, 48, 1, 1\]"),
        ("missing.pth", r"'rpn\.head\.cls_logits\.weight' and 0 others are missing"),
        ("extra.pth", r"'teacher\.weight' and 0 others are too many"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            open_source(spec("shapes", file, folder=tmp_path))
        assert "\n" not in str(caught.value)


def test_weights_that_are_no_state_dict_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(opened("shapes")._model, tmp_path / "module.pth")  # type: ignore[attr-defined]
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights", encoding="utf-8")
    (tmp_path / "text.safetensors").write_text("no weights", encoding="utf-8")
    for file in ("module.pth", "list.pth", "text.pth", "text.safetensors", "absent.pth"):
        with pytest.raises(InputError, match=file) as caught:
            open_source(spec("shapes", file, folder=tmp_path))
        assert "\n" not in str(caught.value)


# ONNX files


def small(shape: list[int | str] | None = None, **rest: Any) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.full((2, 3, 1, 1), 0.5, np.float32), "weight")
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["middle"]),
        helper.make_node("Relu", ["middle"], ["out"]),
    ]
    given = helper.make_tensor_value_info("image", rest.get("type", TensorProto.FLOAT), shape or [1, 3, 8, 16])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", "c", "h", "w"])
    graph = helper.make_graph(nodes, "small", [given], [out], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def onnx_source(folder: Path, model: onnx.ModelProto, size: tuple[int, int] | None = None, **rest: Any) -> Any:
    onnx.save(model, folder / "m.onnx", **rest)
    return open_source(SourceSpec("onnx", "m.onnx", size=size, folder=folder))


def test_an_onnx_file_is_described_by_its_hash(tmp_path: Path) -> None:
    source = onnx_source(tmp_path, small())
    digest = hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest()
    assert source.describe() == {"kind": "onnx", "name": "m.onnx", "weights_sha256": digest, "size": [8, 16]}
    assert source.export() == small()
    assert source.folder is None


def test_the_outputs_of_a_part_of_an_earlier_run_are_its_own(tmp_path: Path) -> None:
    part = small()
    part.metadata_props.add(key=JOINS_NOTE, value=write_note([JoinedOutput("whole", ("out", "more"), 0)]))
    assert onnx_source(tmp_path, part).export() == small()


def test_tracing_an_onnx_file_adds_the_boundary(tmp_path: Path) -> None:
    source = onnx_source(tmp_path, small())
    image = np.linspace(0, 1, 3 * 8 * 16, dtype=np.float32).reshape(3, 8, 16)
    assert set(source.trace(source.canvas.fit(image))) == {"input", "image", "out"}
    source.set_boundary(["middle", "out"])
    tensors = source.trace(source.canvas.fit(image))
    assert set(tensors) == {"input", "image", "middle", "out"}
    assert tensors["image"].shape == (1, 3, 8, 16)
    np.testing.assert_allclose(tensors["middle"][0, 1], image.sum(axis=0) / 2, rtol=1e-6)
    assert source.export() == small()
    with pytest.raises(ModelError, match="computes 'nowhere'"):
        source.set_boundary(["nowhere"])


def test_notes_of_an_earlier_run_are_not_those_of_an_original(tmp_path: Path) -> None:
    model = small()
    for key in (TYPES_NOTE, NORMALISATION_NOTE, "author"):
        model.metadata_props.add(key=key, value="{}")
    exported = onnx_source(tmp_path, model).export()
    assert [entry.key for entry in exported.metadata_props] == ["author"]


def test_an_onnx_file_whose_nodes_share_a_name_is_traced(tmp_path: Path) -> None:
    model = small()
    for node in model.graph.node:
        node.name = "same"
    source = onnx_source(tmp_path, model)
    image = np.random.default_rng(0).random((3, source.canvas.height, source.canvas.width), np.float32)
    assert source.trace(source.canvas.fit(image)).keys() >= {output.name for output in model.graph.output}


def test_detections_of_an_onnx_file_are_its_outputs_of_these_names(tmp_path: Path) -> None:
    model = opened("shapes").export()
    source = onnx_source(tmp_path, model)
    found = source.detect(picture("shapes"))
    assert set(found) == {"boxes", "labels", "scores", "masks_pasted"}
    assert len(found["boxes"]) == len(traced("shapes")["boxes"])
    called = onnx_source(tmp_path, rename_tensors(Model(model), {"masks_pasted": "masks"}).proto)
    np.testing.assert_array_equal(called.detect(picture("shapes"))["masks_pasted"], found["masks_pasted"])
    with pytest.raises(ModelError, match=r"detections in the recipe says .*; out \[n, c, h, w\] looks like no preset"):
        onnx_source(tmp_path, small()).detect(source.canvas.fit(np.zeros((3, 8, 16), np.float32)))


@pytest.fixture(scope="module")
def embedded() -> Source:
    pytest.importorskip("torchvision")
    return open_source(spec("shapes", None, (256, 320)))


@pytest.mark.parametrize("size", [(256, 320), (640, 800), (400, 230), (150, 260)])
def test_masks_that_the_graph_pasted_are_restored_as_those_of_the_network(
    embedded: Source, size: tuple[int, int]
) -> None:
    """As far as that goes: a box begins at a whole pixel of the canvas, which is up to 2.5 of these images'."""
    placed = embedded.canvas.fit(draw(7, 0, size=size, objects=4).image)
    tensors = embedded.trace(placed)
    ours, pasted = (
        placed.restore({"boxes": tensors["boxes"], kind: tensors[kind]})["masks"][:, 0] > 0.5
        for kind in ("masks", "masks_pasted")
    )
    found = [
        np.count_nonzero(one & other) / np.count_nonzero(one | other)
        for one, other in zip(ours, pasted, strict=True)
        if one.any()
    ]
    assert found
    assert min(found) > 0.9
    assert np.mean(found) > 0.94
    assert min(found) == 1 or size != (256, 320)


def test_a_dynamic_size_is_taken_from_the_recipe(tmp_path: Path) -> None:
    dynamic = small(["N", 3, "H", "W"])
    with pytest.raises(InputError, match=r"no fixed size .*N, 3, H, W"):
        onnx_source(tmp_path, dynamic)
    canvas = onnx_source(tmp_path, dynamic, (32, 64)).canvas
    assert (canvas.height, canvas.width, canvas.mean) == (32, 64, None)
    with pytest.raises(InputError, match="not on 32x64"):
        onnx_source(tmp_path, small(), (32, 64))


@pytest.mark.parametrize("shape", [[1, 4, 8, 16], [0, 3, 8, 16], [3, 8], [8, 16, 3]])
def test_a_graph_without_an_image_input_is_refused(tmp_path: Path, shape: list[int | str]) -> None:
    # Only the input is looked at: a Conv would not check with these.
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["out"])], "g", [given], [out])
    with pytest.raises(ModelError, match="needs one input"):
        onnx_source(tmp_path, helper.make_model(graph, ir_version=8))


@pytest.mark.parametrize(
    ("shape", "dtype", "keys"),
    [
        ([1, 8, 16, 3], TensorProto.FLOAT, "{layout: NHWC}"),
        ([8, 16, 3], TensorProto.UINT8, "{layout: NHWC, dtype: uint8, range: 255}"),
        ([1, 3, "h", "w"], TensorProto.FLOAT16, "{dtype: float16}"),
    ],
)
def test_an_image_of_another_form_is_told_with_the_keys_that_fit(
    tmp_path: Path, shape: list[int | str], dtype: int, keys: str
) -> None:
    given = helper.make_tensor_value_info("photo", dtype, shape)
    scale = helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("out", dtype, shape)
    graph = helper.make_graph([helper.make_node("Identity", ["photo"], ["out"])], "g", [given], [out])
    opset = [helper.make_opsetid("", 17)]
    said = f"image in the recipe says what else it may be: photo looks like {keys}"
    with pytest.raises(ModelError, match=f"{re.escape(said)}$"):
        onnx_source(tmp_path, helper.make_model(graph, opset_imports=opset, ir_version=8))
    graph.input.append(scale)
    with pytest.raises(ModelError, match=rf"{re.escape(said)}; source\.inputs in the recipe says what the others"):
        onnx_source(tmp_path, helper.make_model(graph, opset_imports=opset, ir_version=8))


def test_an_image_of_the_usual_form_is_told_to_a_recipe_that_has_another(tmp_path: Path) -> None:
    onnx.save(small(), tmp_path / "m.onnx")
    image = Preprocessing(layout="NHWC", dtype="uint8", range=255)
    with pytest.raises(ModelError, match=r"image looks like \{layout: NCHW, dtype: float32\}$"):
        open_source(SourceSpec("onnx", "m.onnx", folder=tmp_path, image=image))


def test_broken_onnx_files_are_one_line(tmp_path: Path) -> None:
    whole = small().SerializeToString()
    invalid = small()
    invalid.graph.node[1].input[0] = "nothing"
    for name, content in {
        "cut.onnx": whole[: len(whole) // 2],
        "noise.onnx": bytes(range(256)) * 8,
        "empty.onnx": b"",
        "text.onnx": b"this is no model\n",
        "invalid.onnx": invalid.SerializeToString(),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=name) as caught:
            open_source(SourceSpec("onnx", name, folder=tmp_path))
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"absent\.onnx"):
        open_source(SourceSpec("onnx", "absent.onnx", folder=tmp_path))


def test_external_data_is_used_and_part_of_the_identity(tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_as_external_data": True, "location": "m.bin", "size_threshold": 0}
    source = onnx_source(tmp_path, small(), **options)
    assert source.folder == tmp_path.resolve()
    source.set_boundary(["middle"])
    image = np.ones((3, 8, 16), np.float32)
    assert source.trace(source.canvas.fit(image))["middle"].max() == 1.5
    data = tmp_path / "m.bin"
    data.write_bytes(bytes(data.stat().st_size))
    changed = open_source(SourceSpec("onnx", "m.onnx", folder=tmp_path))
    assert changed.describe() != source.describe()
    assert changed.trace(source.canvas.fit(image))["out"].max() == 0


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/hosts", "sub/../../secret.bin", "C:\\secret.bin", "link.bin"]
)
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    if location == "link.bin":
        try:
            (folder / location).symlink_to(tmp_path / "secret.bin")
        except OSError:
            pytest.skip("no symbolic links here")
    model = small()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        open_source(SourceSpec("onnx", "m.onnx", folder=folder))
