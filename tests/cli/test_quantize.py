"""The command quantize: what it writes and prints, and how it ends where the input is at fault."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Cli, Snapshot
from onnx import helper, numpy_helper

from graphsurgery.images.canvas import Canvas


@dataclass(frozen=True)
class Place:
    """A model with its captured inputs."""

    model: Path
    model_io: Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    random = np.random.default_rng(1)
    tensor = helper.make_tensor_value_info
    outlier = random.normal(size=(4, 3, 3, 3)).astype(np.float32)
    outlier[0, 0, 0, 0] = 300.0
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "rough", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "v"], ["y"], "fine", pads=[1, 1, 1, 1]),
    ]
    weights = {"w": outlier, "v": random.normal(size=(2, 4, 3, 3)).astype(np.float32)}
    graph = helper.make_graph(
        nodes,
        "part",
        [tensor("x", 1, [1, 3, 8, 8])],
        [tensor("y", 1, [1, 2, 8, 8])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "part.onnx"
    )
    samples = []
    for number in range(3):
        (tmp_path / "io" / str(number)).mkdir(parents=True)
        np.save(tmp_path / "io" / str(number) / "x.npy", random.normal(size=(1, 3, 8, 8)).astype(np.float32))
        samples.append({"id": str(number), "file": None, "height": 8, "width": 8})
    canvas = Canvas(8, 8).to_json()
    index = {"format": 1, "source": {}, "canvas": canvas, "samples": samples}
    (tmp_path / "io" / "capture.json").write_text(json.dumps(index), encoding="utf-8")
    return Place(tmp_path / "part.onnx", tmp_path / "io")


def ops(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_a_model_is_quantized_beside_itself(cli: Cli, place: Place) -> None:
    before = place.model.read_bytes()
    outcome = cli("quantize", place.model, "--inputs", place.model_io)
    assert outcome.code == 0, outcome.err
    written = place.model.with_name("part.quantized.onnx")
    onnx.checker.check_model(onnx.load(written))
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops(written)
    assert place.model.read_bytes() == before
    assert sorted(path.name for path in place.model.parent.iterdir()) == ["io", "part.onnx", "part.quantized.onnx"]
    assert re.search(r"y +\d+\.\d dB", outcome.out)
    assert str(written) in outcome.out


def test_options_reach_the_pass(cli: Cli, place: Place, tmp_path: Path) -> None:
    out = tmp_path / "integer.onnx"
    options = (
        "--option",
        "format=qoperator",
        "--option",
        "per_channel=false",
        "--samples",
        2,
        "--backend",
        "onnxruntime",
    )
    outcome = cli("quantize", place.model, "--inputs", place.model_io, "--out", out, "--json", "-", *options)
    assert outcome.code == 0, outcome.err
    assert "QLinearConv" in ops(out)
    content = json.loads(outcome.out)
    assert content["feeds"] == 2
    assert content["backend"] == "onnxruntime"
    assert content["excluded"] == []


def test_explain_ranks_the_layers_in_table_plot_and_json(cli: Cli, place: Place, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    bad = ("--option", "per_channel=false")
    outcome = cli("quantize", place.model, "--inputs", place.model_io, "--explain", "--json", report, *bad)
    assert outcome.code == 0, outcome.err
    content = json.loads(report.read_text(encoding="utf-8"))
    first, *others = content["layers"]
    assert (first["name"], first["op"]) == ("rough", "Conv")
    assert all(first["sqnr_db"] < other["sqnr_db"] for other in others)
    assert outcome.out.index("rough") < outcome.out.index("fine")
    drawing = ElementTree.parse(place.model.with_name("part.quantized.svg")).getroot()
    labels = [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert labels.index("rough") < labels.index("fine")
    assert content["plot"] == str(place.model.with_name("part.quantized.svg"))


def test_a_plot_is_put_where_it_is_told_and_needs_no_explain(cli: Cli, place: Place, tmp_path: Path) -> None:
    outcome = cli("quantize", place.model, "--inputs", place.model_io, "--plot", tmp_path / "layers.svg")
    assert outcome.code == 0, outcome.err
    ElementTree.parse(tmp_path / "layers.svg")
    assert not place.model.with_name("part.quantized.svg").exists()


def test_a_goal_leaves_the_bad_layer_float(cli: Cli, place: Place, tmp_path: Path) -> None:
    bad = ("--option", "per_channel=false", "--json", tmp_path / "report.json")
    outcome = cli("quantize", place.model, "--inputs", place.model_io, "--goal", 30, *bad)
    assert outcome.code == 0, outcome.err
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["excluded"] == ["rough"]
    assert content["sqnr_db"]["y"] >= 30
    assert "left float: rough" in outcome.out


def test_excluded_patterns_stay_float(cli: Cli, place: Place) -> None:
    outcome = cli("quantize", place.model, "--inputs", place.model_io, "--exclude", "rou*", "--exclude", "relu")
    assert outcome.code == 0, outcome.err
    nodes = onnx.load(place.model.with_name("part.quantized.onnx")).graph.node
    assert next(node.input[1] for node in nodes if node.name == "rough") == "w"
    assert next(node.input[1] for node in nodes if node.name == "fine") != "v"
    assert "left float: rough, relu" in outcome.out


def drown(place: Place) -> None:
    """Make a weight so large that per tensor it leaves nothing of the others, and let nothing read what it gives."""
    model = onnx.load(place.model)
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            values = numpy_helper.to_array(tensor).copy()
            values[0, 0, 0, 0] = 1e5
            tensor.CopyFrom(numpy_helper.from_array(values, "w"))
        else:
            values = numpy_helper.to_array(tensor).copy()
            values[:, 0] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, "v"))
    onnx.save(model, place.model)


def test_what_is_mostly_noise_is_not_written_and_ends_with_1(cli: Cli, snapshot: Snapshot, place: Place) -> None:
    drown(place)
    before = snapshot(place.model.parent)
    outcome = cli("quantize", place.model, "--inputs", place.model_io, "--option", "per_channel=false", "--json", "-")
    assert outcome.code == 1
    assert re.search(
        r"below the floor of 10 dB: y -?\d+\.\d dB; .*part\.quantized\.onnx is not written", outcome.last_line
    )
    assert snapshot(place.model.parent) == before
    content = json.loads(outcome.out)
    assert (content["out"], content["bytes"]) == (None, None)
    assert content["sqnr_db"]["y"] < 10


def test_a_lower_floor_takes_it_all_the_same(cli: Cli, place: Place) -> None:
    drown(place)
    given = ("quantize", place.model, "--inputs", place.model_io, "--option", "per_channel=false")
    assert cli(*given, "--floor", "-20").code == 0
    assert place.model.with_name("part.quantized.onnx").is_file()


@pytest.mark.parametrize("floor", [90, "nan"])
def test_a_floor_is_what_the_user_says(cli: Cli, place: Place, floor: object) -> None:
    outcome = cli("quantize", place.model, "--inputs", place.model_io, "--floor", floor)
    assert outcome.code == 1
    assert f"below the floor of {floor} dB: y" in outcome.last_line


def test_tables_fit_80_columns_without_escape_codes(
    cli: Cli, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = onnx.load(place.model)
    for node in model.graph.node:
        node.name = f"/a/very/long/path/of/modules/that/exporters/like/to/write/into/their/names/{node.name}"
    onnx.save(model, place.model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    outcome = cli("quantize", "part.onnx", "--inputs", "io", "--explain")
    assert outcome.code == 0, outcome.err
    assert "\x1b" not in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{folder}", "--inputs", "{io}"], "this is a folder; name one ONNX file"),
        (["{folder}/nothing.onnx", "--inputs", "{io}"], "can't be read"),
        (["{model}", "--inputs", "{folder}"], "no capture was finished here"),
        (["{model}", "--inputs", "{folder}/nowhere"], "no capture was finished here"),
        (["{model}"], "--inputs"),
        (["{model}", "--inputs", "{io}", "--option", "speed=1"], "speed"),
        (["{model}", "--inputs", "{io}", "--option", "per_channel"], "NAME=VALUE"),
        (
            ["{model}", "--inputs", "{io}", "--backend", "tflite"],
            "backend must be one of onnxruntime, quark, vai_q_onnx",
        ),
        (["{model}", "--inputs", "{io}", "--exclude", "nobody*"], "no node is called like 'nobody*'"),
        (["{model}", "--inputs", "{io}", "--exclude", "fine", "--goal", "30"], "give one of the two"),
        (["{model}", "--inputs", "{io}", "--goal", "-3"], "sqnr_goal must be a number of dB above 0"),
        (["{model}", "--inputs", "{io}", "--goal", "high"], "'--goal'"),
        (["{model}", "--inputs", "{io}", "--out", "{model}"], "would overwrite the model itself"),
        (["{model}", "--inputs", "{io}", "--out", "{folder}/io/../part.onnx"], "would overwrite the model itself"),
        (["{model}", "--inputs", "{io}", "--plot", "{model}"], "would overwrite the model itself"),
        (["{model}", "--inputs", "{io}", "--plot", "{folder}/part.quantized.onnx"], "would overwrite what --out names"),
        (["{model}", "--inputs", "{io}", "--json", "{model}"], "would overwrite the model itself"),
        (["{model}", "--inputs", "{io}", "--out", "{folder}/nowhere/out.onnx"], "no file can be written there"),
        (["{model}", "--inputs", "{io}", "--samples", "0"], "--samples"),
    ],
)
def test_a_wrong_call_is_one_line_and_writes_nothing(
    cli: Cli, snapshot: Snapshot, place: Place, arguments: list[str], said: str
) -> None:
    folder = place.model.parent
    before = snapshot(folder)
    words = {"model": place.model, "io": place.model_io, "folder": folder}
    outcome = cli("quantize", *(each.format(**words) for each in arguments))
    assert outcome.code == 2
    assert said in outcome.last_line
    assert len(outcome.err.strip().splitlines()) == 1
    assert snapshot(folder) == before


def test_captured_tensors_that_do_not_fit_are_one_line(cli: Cli, snapshot: Snapshot, place: Place) -> None:
    np.save(place.model_io / "1" / "x.npy", np.zeros((1, 3, 9, 9), np.float32))
    before = snapshot(place.model.parent)
    outcome = cli("quantize", place.model, "--inputs", place.model_io)
    assert outcome.code == 2
    assert "sample 1: 'x' has shape" in outcome.last_line
    assert snapshot(place.model.parent) == before


def test_a_quantized_model_is_not_quantized_again(cli: Cli, place: Place) -> None:
    assert cli("quantize", place.model, "--inputs", place.model_io).code == 0
    again = cli("quantize", place.model.with_name("part.quantized.onnx"), "--inputs", place.model_io)
    assert again.code == 2
    assert "nothing was quantized: it is quantized already" in again.last_line


def test_a_backend_that_is_not_installed_is_a_missing_tool(cli: Cli, snapshot: Snapshot, place: Place) -> None:
    before = snapshot(place.model.parent)
    outcome = cli("quantize", place.model, "--inputs", place.model_io, "--backend", "vai_q_onnx")
    assert outcome.code == 3
    assert "quark" in outcome.last_line
    assert snapshot(place.model.parent) == before


def test_a_goal_out_of_reach_writes_nothing(
    cli: Cli, snapshot: Snapshot, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphsurgery import quantize as quantizers

    def stubborn(*arguments: object) -> quantizers.Quantize:
        made = prepare(*arguments)(())  # type: ignore[arg-type]
        return lambda names: made

    prepare = quantizers.prepare
    monkeypatch.setattr(quantizers, "prepare", stubborn)
    before = snapshot(place.model.parent)
    outcome = cli("quantize", place.model, "--inputs", place.model_io, "--goal", "80")
    assert outcome.code == 2
    assert "the goal is 80 dB" in outcome.last_line
    assert snapshot(place.model.parent) == before


def test_a_tensor_that_joins_ranges_too_far_apart_is_a_warning(cli: Cli, place: Place) -> None:
    model = onnx.load(place.model)
    nodes = [
        helper.make_node("Sigmoid", ["y"], ["scores"], "score"),
        helper.make_node("Mul", ["scores", "width"], ["boxes"], "scale"),
        helper.make_node("Concat", ["boxes", "scores"], ["out"], "join", axis=1),
    ]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array([640], np.float32), "width"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", 1, [1, 4, 8, 8]))
    onnx.save(model, place.model)
    outcome = cli("quantize", place.model, "--inputs", place.model_io, "--floor", -99, "--json", "-")
    assert outcome.code == 0, outcome.err
    assert "warning: 'out' joins boxes (" in outcome.err
    assert "partition.at: {tensors: ['boxes', 'scores']} cuts before they meet" in outcome.err
    (joined,) = json.loads(outcome.out)["joined"]
    low, high = joined["ranges"]["scores"]
    assert joined["ranges"]["boxes"] == pytest.approx([640 * low, 640 * high], rel=1e-4)
    assert 0 <= low < high <= 1
