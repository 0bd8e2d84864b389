"""The vendors' flows for mmdetection's exports, on the embedded detector in that spelling, and wrong input for them.

The graph is what a vendor's tool gets; what the tool makes of it only runs where the tool is. MagicMind's is the page
on it, docs/flows/magicmind.md, which is followed once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Applied, Cli, Outcome, made_once
from onnx import ModelProto, TensorProto, numpy_helper
from pages import ROOT, ap_tables, follow

pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from spellings import mmdet

from graphsurgery.demo.shapes import VAL_SEED, write_dataset

CLASSES = "detections={preset: mmdet_mask, classes: [circle, square, triangle]}"
OPEN = "compile.magicmind.dim_range={input: {min: [1, 3, 128, 128], max: [2, 3, 128, 192]}}"
IMAGES = 3


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "shapes", IMAGES, VAL_SEED)


def applied(cli: Cli, folder: Path, recipe: str, network: Path, *values: str, check: bool = True) -> Outcome:
    given = (f"source.onnx={network}", "source.size=[256, 320]", "capture.samples=1", CLASSES, *values)
    options = [part for value in given for part in ("--set", value)]
    where = ("--out", folder / "parts", "--model-io", folder / "io", *(() if check else ("--no-check",)))
    return cli("apply", recipe, *options, "--workers", 1, *where)


def measured(annotations: Path) -> list[str]:
    return [f"evaluate.images={annotations.parent / 'images'}", f"evaluate.annotations={annotations}"]


def run_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "parts" / "run.json").read_text("utf-8"))
    return content


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Applied:
    """What the commands of the page on MagicMind write, `folder.parent / "mine"` and "fixed", and what they print."""

    def make(root: Path) -> Outcome:
        mmdet.written(root / "mmdet_maskrcnn.onnx")
        write_dataset(root, IMAGES, VAL_SEED)
        (root / "images").rename(root / "photos")
        followed = follow(ROOT / "docs" / "flows" / "magicmind.md", root)
        assert followed.blocks == 4
        return Outcome(0, followed.printed, "")

    return made_once(tmp_path_factory, "magicmind", make)


@pytest.mark.whole
@pytest.mark.parametrize("name", ["mine", "fixed"])
def test_magicmind_gets_a_graph_that_finds_the_same(page: Applied, name: str) -> None:
    is_open = name == "mine"
    run = json.loads((page.folder.parent / name / "run.json").read_text("utf-8"))
    assert {step["verdict"] for step in (*run["passes"], *run["checks"])} == {"passed"}
    if is_open:
        ap = run["evaluation"]["ap"]["bbox"]
        original, parts, published = ap["original"], ap["parts"], run["evaluation"]["published"]["bbox"]["AP"]
    else:
        original, parts, published = ap_tables(page.outcome.out)[-1]["bbox"]
    assert original > 0.6
    assert parts == pytest.approx(original, abs=1e-4)
    assert published == (0.381 if is_open else 0.355)
    place = page.folder.parent / name / "compiled" / "magicmind" / name
    options = json.loads((place / "build.json").read_text("utf-8"))
    assert options["graph_shape_mutable"] is is_open
    graph = onnx.load(place / f"{name}.onnx").graph
    assert "grid_sampler" in {node.op_type for node in graph.node}
    assert [value.name for value in graph.input] == ["input"]
    types = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    assert types == {"dets": TensorProto.FLOAT, "labels": TensorProto.INT32, "masks": TensorProto.FLOAT}
    sizes = [step["name"] for step in run["checks"] if step["name"].startswith("input ")]
    wanted = ["input [1, 3, 128, 128]", "input [2, 3, 128, 128]", "input [2, 3, 128, 192]"]
    assert sizes == (wanted if is_open else [])


@pytest.mark.whole
def test_results_of_another_run_are_refused(cli: Cli, page: Applied, tmp_path: Path) -> None:
    root = page.folder.parent
    given = ("--images", root / "photos", "--annotations", root / "instances.json", "--no-original", "--workers", 1)
    evaluating = ("evaluate", root / "fixed", *given, "--results", f"magicmind={tmp_path}")
    outcome = cli(*evaluating)
    assert outcome.code == 2
    assert "000001_0.bin: can't be read (No such file or directory); it holds output 'dets'" in outcome.last_line
    for stem in ("000001", "000002", "000003"):  # of a run on a canvas of another size
        np.zeros((1, 100, 5), np.float32).tofile(tmp_path / f"{stem}_0.bin")
        np.zeros((1, 100), np.int32).tofile(tmp_path / f"{stem}_1.bin")
        np.zeros((1, 100, 224, 224), np.float32).tofile(tmp_path / f"{stem}_2.bin")
    outcome = cli(*evaluating)
    assert outcome.code == 2
    assert "000001_2.bin: has 20070400 bytes, and output 'masks' is float32 [1, 100, 256, 320]" in outcome.last_line


@pytest.mark.whole
def test_ascend_gets_its_own_operators_and_no_number_of_rows_that_depends(
    cli: Cli, tmp_path: Path, images: Path
) -> None:
    network = mmdet.written(tmp_path / "network.onnx")
    outcome = applied(cli, tmp_path, "ascend_mmdet", network, *measured(images))
    assert outcome.code == 0, outcome.err
    run = run_of(tmp_path)
    assert {step["verdict"] for step in (*run["passes"], *run["checks"])} == {"passed"}
    ap = run["evaluation"]["ap"]["bbox"]
    assert ap["original"] > 0.6
    assert ap["parts"] == pytest.approx(ap["original"], abs=0.02)
    place = tmp_path / "parts" / "compiled" / "ascend" / "network"
    proto = onnx.load(place / "network.onnx")
    kinds = Counter(node.op_type for node in proto.graph.node)
    assert (kinds["RoiExtractor"], kinds["BatchMultiClassNMS"]) == (2, 2)
    assert not {"If", "Loop", "NonZero", "NonMaxSuppression", "ScatterND", "RoiAlign", "Shape", "Where"} & kinds.keys()
    assert not [node.op_type for node in proto.graph.node if node.domain]
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in proto.graph.output}
    assert (shapes["dets"], shapes["labels"]) == ([1, 100, 5], [1, 100])
    assert all(min(shape) > 0 for shape in shapes.values())
    types = {value.name: value.type.tensor_type.elem_type for value in proto.graph.output}
    assert types["labels"] == TensorProto.INT32
    line = (place / "atc.sh").read_text("utf-8")
    assert "--input_shape=input:1,3,256,320" in line
    assert "--soc_version=Ascend310P3" in line


@pytest.mark.whole
def test_a_level_rule_that_is_not_known_is_one_line(cli: Cli, tmp_path: Path) -> None:
    network = edited(tmp_path, with_levels_that_triple)
    outcome = applied(cli, tmp_path, "ascend_mmdet", network)
    assert outcome.code == 2
    assert "(RoiAlign) stands between the weights of one part, and no accelerator runs it" in outcome.last_line
    assert "passes that look at RoiAlign: " in outcome.last_line
    assert not (tmp_path / "parts").exists()


def edited(folder: Path, change: Callable[[ModelProto], None]) -> Path:
    proto = onnx.load(mmdet.written(folder / "network.onnx"))
    change(proto)
    onnx.save(proto, folder / "network.onnx")
    return folder / "network.onnx"


def with_another_name(proto: ModelProto) -> None:
    """Call the image as another exporter would."""
    for value in proto.graph.input:
        value.name = "images" if value.name == "input" else value.name
    for node in proto.graph.node:
        node.input[:] = ["images" if name == "input" else name for name in node.input]


def with_an_unknown_operator(proto: ModelProto) -> None:
    """Let masks be pasted by an operator that nobody defines."""
    for node in proto.graph.node:
        node.op_type = "paste_masks" if node.op_type == "grid_sampler" else node.op_type


def with_levels_that_triple(proto: ModelProto) -> None:
    """Let a region be of the next level where it is three times as large, not twice."""
    for node in proto.graph.node:
        for held in node.attribute if node.op_type == "Constant" else ():
            value = numpy_helper.to_array(held.t)
            if value.size == 1 and np.allclose(value, np.log(2), rtol=1e-6):
                held.t.CopyFrom(numpy_helper.from_array(np.full_like(value, np.log(3))))


def without_masks(proto: ModelProto) -> None:
    """Leave the masks out, as Faster R-CNN is exported."""
    del proto.graph.output[2:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_another_name, "compiler 'magicmind': there is no input 'input' to leave open."),
        (with_an_unknown_operator, "(mmcv.paste_masks): nobody defines this operator"),
        (without_masks, "detections.masks: there is no output number 2; the network gives dets"),
    ],
)
def test_a_file_of_another_spelling_is_one_line_and_nothing_is_written(
    cli: Cli, tmp_path: Path, change: Callable[[ModelProto], None], message: str
) -> None:
    network = edited(tmp_path, change)
    outcome = applied(cli, tmp_path, "magicmind_mmdet", network, OPEN, check=False)  # it is refused without, too
    assert outcome.code == 2
    assert message in outcome.last_line
    assert not (tmp_path / "parts").exists()


def test_a_range_that_the_graph_can_not_take_is_one_line(cli: Cli, tmp_path: Path) -> None:
    network = mmdet.written(tmp_path / "network.onnx")
    given = "compile.magicmind.dim_range={input: {min: [1, 1, 128, 128], max: [1, 1, 128, 128]}}"
    outcome = applied(cli, tmp_path, "magicmind_mmdet", network, given, check=False)
    assert outcome.code == 2
    assert "input 'input' is ['batch', 3, 'width', 'height'], which does not go from [1, 1, 1" in outcome.last_line
    assert not (tmp_path / "parts").exists()
