"""Ascend's flow for detectron2, from its spelling of the embedded detector to the command line, results and AP."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Applied, Cli, made_once
from spellings.detectron2 import exported

from graphsurgery.compiling.raw_files import write_raw
from graphsurgery.demo.shapes import HEIGHT, VAL_SEED, WIDTH, write_dataset
from graphsurgery.devices import session
from graphsurgery.images.files import load_image
from graphsurgery.runtime.detector import Detector

pytestmark = pytest.mark.whole
IMAGES = 6
PART = "ascend_detectron2"


@pytest.fixture(scope="module")
def ascend(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Applied:
    """The recipe, run on the shapes."""

    def make(root: Path) -> Any:
        write_dataset(root / "data", IMAGES, VAL_SEED)
        onnx.save(exported(11), root / "shapes.onnx")
        values = (f"source.onnx={root / 'shapes.onnx'}", "detections.classes=[circle, square, triangle]")
        values = (*values, f"capture.images={root / 'data' / 'images'}", "capture.samples=2")
        options = [part for value in values for part in ("--set", value)]
        return cli("apply", PART, *options, "--out", root / "parts", "--model-io", root / "model_io")

    return made_once(tmp_path_factory, "ascend_detectron2", make)


def data(ascend: Applied) -> tuple[str, ...]:
    place = ascend.folder.parent / "data"
    return "--images", str(place / "images"), "--annotations", str(place / "instances.json")


def ap(printed: str) -> dict[str, list[float]]:
    """Return the AP of each kind: of the original, and of the other columns."""
    found: dict[str, list[float]] = {}
    kind = ""
    for line in printed.splitlines():
        words = line.split()
        if words[:1] in (["bbox"], ["segm"]):
            kind = words[0]
        if words[:1] == ["AP"] and kind:
            found[kind] = [float(word) for word in words[1:] if word != "-"]
    return found


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


def test_ap_stays(cli: Cli, ascend: Applied) -> None:
    weights = ascend.folder.parent / "shapes.onnx"
    outcome = cli("evaluate", ascend.folder, *data(ascend), "--weights", weights)
    assert outcome.code == 0, outcome.err
    original, parts, *published = ap(outcome.out)["bbox"]
    assert published[-1:] == [0.3274]  # Huawei's, on COCO
    assert original > 0.75
    assert abs(original - parts) < 0.02


def test_results_of_the_chip_get_the_same_ap(cli: Cli, ascend: Applied) -> None:
    """What ais_bench would write is written from the same graph."""
    options = ("--option", "soc_version=Ascend310P3", "--images", ascend.folder.parent / "data" / "images", "--no-run")
    outcome = cli("compile", ascend.folder, "--with", "ascend", *options)
    assert outcome.code == 0, outcome.err
    folder, results = ascend.folder / "compiled" / "ascend" / PART, ascend.folder.parent / "results"
    model = onnx.load(ascend.folder / f"{PART}.onnx")
    for file in sorted((folder / "input").iterdir()):
        pixels = np.fromfile(file, np.float32).reshape(1, 3, HEIGHT, WIDTH)
        for number, values in enumerate(session.run(model, {model.graph.input[0].name: pixels}).values()):
            write_raw(results / f"{file.stem}_{number}.bin", values)
    listed = ("--no-original", "--results", f"ascend={results}")
    outcome = cli("evaluate", ascend.folder, *data(ascend), *listed)
    assert outcome.code == 0, outcome.err
    parts, chip, *_ = ap(outcome.out)["bbox"]
    assert parts == chip


def test_the_runtime_gives_the_mask_of_the_label(ascend: Applied) -> None:
    detector = Detector.load(ascend.folder)
    image = load_image(ascend.folder.parent / "data" / "images" / "000001.png")
    placed = detector.place(image)
    outputs = detector.raw(image)
    found = detector.on_canvas(placed)
    rows = np.flatnonzero(outputs["scores"] > 0)
    rows = rows[np.argsort(-outputs["scores"][rows], kind="stable")]
    np.testing.assert_array_equal(found["boxes"], outputs["boxes"][rows])
    np.testing.assert_array_equal(found["masks"][:, 0], outputs["masks"][rows, outputs["labels"][rows]])
    assert json.loads((ascend.folder / "manifest.json").read_text("utf-8"))["normalise"] is True
