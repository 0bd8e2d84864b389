"""The embedded detector of one stage through its recipe: parts, what they find, what 8 bits cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Applied, Cli, Outcome, made_once
from PIL import Image

from graphsurgery.demo.shapes import CATEGORIES, draw
from graphsurgery.parts.manifest import Manifest

JOINED = "int8_joined"


@pytest.fixture(scope="session")
def applied(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Applied:
    pytest.importorskip("torch")

    def make(root: Path) -> Outcome:
        fewer = ("--set", "capture.samples=8", "--set", "evaluate.samples=50")
        # the figures are those of any number of processes, and each process would import torch
        asked = ("--variant", "all", "--workers", 1, "--out", root / "parts", "--model-io", root / "model_io")
        return cli("apply", "shapes_yolo", *fewer, *asked)

    return made_once(tmp_path_factory, "shapes_yolo", make)


@pytest.mark.whole
def test_becomes_a_network_and_its_decode_that_all_passed(applied: Applied) -> None:
    manifest = Manifest.read(applied.folder)
    assert [(part.name, part.device) for part in manifest.parts] == [("network", "npu"), ("decode", "cpu")]
    steps = [*applied.run["passes"], *applied.run["checks"]]
    assert {step["verdict"] for step in steps} == {"passed"}
    # the heads' last convolutions, by the names that the original's hooks gave them
    crossing = {f"{head}_{level}" for head in ("edges", "classes") for level in range(3)}
    network, decode = (onnx.load(applied.folder / f"{name}.onnx").graph for name in ("network", "decode"))
    assert {output.name for output in network.output} == {each.name for each in decode.input} == crossing
    assert "Softmax" not in {node.op_type for node in network.node}


@pytest.mark.whole
def test_the_parts_find_the_shapes_of_a_drawn_image(cli: Cli, applied: Applied, tmp_path: Path) -> None:
    shown = draw(11, 3, size=(300, 400), objects=3)
    Image.fromarray(shown.image).save(tmp_path / "shapes.png")
    told = tmp_path / "found.json"
    outcome = cli("run", applied.folder, "--image", tmp_path / "shapes.png", "--json", told)
    assert outcome.code == 0, outcome.err
    found = [each for each in json.loads(told.read_text(encoding="utf-8"))["detections"] if each["score"] > 0.5]
    assert len(found) == len(shown.labels)
    for box, label in zip(shown.boxes, shown.labels.tolist(), strict=True):
        near = min(found, key=lambda each: float(np.abs(np.subtract(each["box"], box)).max()))
        assert near["class"] == CATEGORIES[label]
        assert near["box"] == pytest.approx(box.tolist(), abs=8)


@pytest.mark.whole
@pytest.mark.usefixtures("exact_int8")
def test_eight_bits_cost_less_than_a_hundredth_where_scores_have_a_scale_of_their_own(applied: Applied) -> None:
    ap = applied.run["evaluation"]["ap"]["bbox"]
    assert ap["original"] >= 0.75
    assert ap["parts"] == pytest.approx(ap["original"], abs=1e-3)
    assert ap["int8"] == pytest.approx(ap["original"], abs=1e-2)
    # boxes and scores in one tensor of 8 bits: a step is larger than any score
    assert ap[JOINED] < ap["original"] - 0.1


# What makes boxes of the heads' outputs: 8 bits of pixels are steps of two, which the pass can't help.
OF_BOXES = "/Softmax, /Conv, /Gather, /Slice_*, /Sub, /Div_1, /Add_1, /Add_2, /Concat_8, /Mul_2, /Reshape_6, /Transpose"


@pytest.mark.whole
@pytest.mark.usefixtures("exact_int8")
def test_scores_taken_apart_survive_eight_bits_without_a_cut(cli: Cli, applied: Applied, tmp_path: Path) -> None:
    passes = f"[simplify, split-detection-output, {{quantize: {{exclude: [{OF_BOXES}]}}}}]"
    settings = (
        *("--set", f"passes={passes}", "--set", "partition=", "--set", "variants=", "--set", "capture.samples=8"),
        *("--set", "check.grant.quantize.scores=0.2", "--set", "evaluate.samples=30"),  # a step is more than an empty
        *("--out", tmp_path / "parts", "--model-io", applied.model_io),  # image has, which is 0 dB
    )
    outcome = cli("apply", "shapes_yolo", *settings)
    assert outcome.code == 0, outcome.err
    manifest = Manifest.read(tmp_path / "parts")
    assert (manifest.outputs, list(manifest.output_shapes)) == (["boxes", "scores"], ["output0"])
    run = json.loads((tmp_path / "parts" / "run.json").read_text(encoding="utf-8"))
    ap = run["evaluation"]["ap"]["bbox"]
    assert ap["parts"] == pytest.approx(ap["original"], abs=1e-2)
    assert "joined" not in run["passes"][-1]["details"]


@pytest.mark.whole
def test_behind_a_cut_the_decode_may_give_boxes_and_scores_apart(cli: Cli, applied: Applied, tmp_path: Path) -> None:
    settings = (
        *("--set", "passes=[simplify, split-detection-output]", "--set", "evaluate.samples=4", "--no-variants"),
        *("--out", tmp_path / "parts", "--model-io", applied.model_io, "--set", "capture.samples=8"),
    )
    outcome = cli("apply", "shapes_yolo", *settings)
    assert outcome.code == 0, outcome.err
    assert Manifest.read(tmp_path / "parts").outputs == ["boxes", "scores"]
    run = json.loads((tmp_path / "parts" / "run.json").read_text(encoding="utf-8"))
    ap = run["evaluation"]["ap"]["bbox"]
    assert ap["parts"] == pytest.approx(ap["original"], abs=1e-3)
    chain = next(step for step in run["checks"] if step["name"] == "chain")
    assert {report["name"] for report in chain["comparison"]["tensors"]} == {"boxes", "scores", "output0"}
    outcome = cli("check", applied.model_io, tmp_path / "parts", "--tolerance", "output0=0.002")
    assert outcome.code == 0, outcome.err
