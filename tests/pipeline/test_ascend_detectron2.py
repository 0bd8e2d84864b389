"""Ascend's flow for detectron2, from its spelling of the embedded detector to the command line, results and AP.

It is the page on it, docs/flows/ascend.md, which is followed once: what its commands write and print is looked at.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Applied, Outcome, made_once
from pages import ROOT, ap_tables, follow
from spellings.detectron2 import exported

from graphsurgery.demo.shapes import HEIGHT, VAL_SEED, WIDTH, write_dataset
from graphsurgery.images.files import load_image
from graphsurgery.runtime.detector import Detector

pytestmark = pytest.mark.whole
IMAGES = 6
PART = "mine"


@pytest.fixture(scope="module")
def ascend(tmp_path_factory: pytest.TempPathFactory) -> Applied:
    """What the commands of the page write into `folder`, and what they print."""
    pytest.importorskip("pycocotools")

    def make(root: Path) -> Outcome:
        onnx.save(exported(11), root / "detector.onnx")
        write_dataset(root, IMAGES, VAL_SEED)
        (root / "images").rename(root / "photos")
        followed = follow(ROOT / "docs" / "flows" / "ascend.md", root)
        assert followed.blocks == 3
        return Outcome(0, followed.printed, "")

    return made_once(tmp_path_factory, "ascend_detectron2", make)


def test_every_pass_is_judged_and_changes_something(ascend: Applied) -> None:
    steps = {step["name"]: step for step in ascend.run["passes"]}
    assert {step["verdict"] for step in ascend.run["passes"]} == {"passed"}
    idle = [name for name, step in steps.items() if step["nodes_before"] == step["nodes_after"]]
    assert set(idle) <= {"set-roialign-alignment", "fill-clip-bounds", "select-outputs"}


def test_nothing_is_left_that_atc_can_not_plan(ascend: Applied) -> None:
    model = onnx.load(ascend.folder / f"{PART}.onnx")
    count = Counter(node.op_type for node in model.graph.node)
    left = {"If", "Loop", "NonZero", "NonMaxSuppression", "RoiAlign", "Shape", "Range", "GatherND", "ScatterND"}
    assert not left & set(count)
    assert (count["BatchMultiClassNMS"], count["RoiExtractor"], count["TopK"]) == (2, 2, 5)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert list(shapes.values()) == [[1, 3, HEIGHT, WIDTH], [100, 4], [100], [100], [100, 3, 28, 28]]
    assert list(shapes)[1:] == ["boxes", "scores", "labels", "masks"]


def test_the_command_line_is_huaweis(ascend: Applied) -> None:
    model = onnx.load(ascend.folder / f"{PART}.onnx")
    folder = ascend.folder / "compiled" / "ascend" / PART
    words = (folder / "atc.sh").read_text("utf-8").replace("\\\n", " ").replace("'", "").split()
    writers = {name: node.name for node in model.graph.node for name in node.output}
    nodes = ";".join(f"{writers[name]}:0" for name in ("boxes", "scores", "labels", "masks"))
    assert words[words.index("atc") :] == [
        "atc",
        f"--model={PART}.onnx",
        "--framework=5",
        f"--output={PART}",
        "--input_format=NCHW",
        f"--input_shape={model.graph.input[0].name}:1,3,{HEIGHT},{WIDTH}",
        f"--out_nodes={nodes}",
        "--log=error",
        "--soc_version=Ascend310P3",
    ]


def test_ap_stays_and_results_of_the_chip_get_the_same(ascend: Applied) -> None:
    """What ais_bench would write is written from the same graph."""
    (table,) = ap_tables(ascend.outcome.out)
    original, parts, chip, published = table["bbox"]
    assert published == 0.3274  # Huawei's, on COCO
    assert original > 0.75
    assert abs(original - parts) < 0.02
    assert parts == chip


def test_the_runtime_gives_the_mask_of_the_label(ascend: Applied) -> None:
    detector = Detector.load(ascend.folder)
    image = load_image(ascend.folder.parent / "photos" / "000001.png")
    placed = detector.place(image)
    outputs = detector.raw(image)
    found = detector.on_canvas(placed)
    rows = np.flatnonzero(outputs["scores"] > 0)
    rows = rows[np.argsort(-outputs["scores"][rows], kind="stable")]
    np.testing.assert_array_equal(found["boxes"], outputs["boxes"][rows])
    np.testing.assert_array_equal(found["masks"][:, 0], outputs["masks"][rows, outputs["labels"][rows]])
    assert json.loads((ascend.folder / "manifest.json").read_text("utf-8"))["normalise"] is True
