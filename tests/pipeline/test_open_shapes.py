"""A recipe whose compiler leaves the image's size open: the graph is held against the original at other sizes."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from conftest import Cli

from graphsurgery.testing import parse

# What it computes hangs on the size, by way of the shape
NETWORK = """<ir_version: 8, opset_import: ["": 17]>
    g (float[batch, 3, height, width] x) => (float[batch, 3, height, width] y) <int64 three = {3}> {
        shape = Shape (x)
        size = Gather (shape, three)
        width_ = Cast <to = 1> (size)
        y = Div (x, width_)
    }"""
PASS = """
import numpy as np
from graphsurgery.rewrite import GraphPass


class {kind}(GraphPass):
    name = "{name}"
    effect = "exact"

    def rewrite(self, graph, edit):
        node = next(node for node in graph.nodes if node.op == "Div")
        {body}
"""
# The width of the canvas in the place of the image's
BAKED = PASS.format(
    kind="Baked", name="baked", body='edit.set_input(node, 1, edit.constant("six", np.array(6, np.float32)))'
)
# What is computed of the first image alone, of which there is one on the canvas
MIXED = PASS.format(
    kind="Mixed",
    name="mixed",
    body="""rows = edit.constant("rows", np.array([0]))
        first = edit.emit("Gather", [node.inputs[0], rows], {"axis": 0}, hint="first")
        zeros = edit.emit("Sub", [node.inputs[0], node.inputs[0]], hint="zeros")
        edit.set_input(node, 0, edit.emit("Add", [zeros, first], hint="spread"))""",
)
SIZES = "{x: {min: [1, 3, 4, 6], max: [3, 3, 8, 12]}}"


def run(cli: Cli, folder: Path, plugin: str | None = None, sizes: str = SIZES, *options: object) -> object:
    onnx.save(parse(NETWORK), folder / "net.onnx")
    passes: list[str] = []
    if plugin is not None:
        (folder / "plugin.py").write_text(plugin, "utf-8")
        passes = [plugin.partition('name = "')[2].partition('"')[0]]
    (folder / "net.yaml").write_text(
        f"source: {{onnx: net.onnx, size: [4, 6]}}\ncapture: {{samples: 1}}\npasses: {passes}\n"
        f"compile: {{magicmind: {{dim_range: {sizes}}}}}\n",
        "utf-8",
    )
    given = ["--plugin", folder / "plugin.py"] if plugin is not None else []
    return cli("apply", folder / "net.yaml", "--out", folder / "parts", "--model-io", folder / "io", *given, *options)


def test_the_sizes_are_compared_and_told(cli: Cli, tmp_path: Path) -> None:
    outcome = run(cli, tmp_path)
    assert outcome.code == 0, outcome.err
    checks = json.loads((tmp_path / "parts" / "run.json").read_text("utf-8"))["checks"]
    sized = {check["name"]: check["verdict"] for check in checks if check["name"].startswith("x ")}
    named = ("x [1, 3, 4, 6]", "x [3, 3, 4, 6]", "x [2, 3, 4, 6]", "x [3, 3, 8, 12]")
    assert sized == dict.fromkeys(named, "passed")
    assert (tmp_path / "parts" / "compiled" / "magicmind" / "net" / "build.json").is_file()


@pytest.mark.parametrize(
    ("plugin", "where"), [(BAKED, "x [3, 3, 8, 12]"), (MIXED, "x [2, 3, 4, 6]")], ids=["baked", "mixed"]
)
def test_what_holds_on_the_canvas_alone_is_a_difference(cli: Cli, tmp_path: Path, plugin: str, where: str) -> None:
    outcome = run(cli, tmp_path, plugin)
    assert outcome.code == 1
    assert f"the graph on {where} differs from the original model: y of sample image" in outcome.err
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("{y: {min: [1, 3, 4, 6], max: [1, 3, 4, 6]}}", "compiler 'magicmind': there is no input 'y' to leave open"),
        (
            "{x: {min: [1, 4, 4, 6], max: [1, 4, 4, 6]}}",
            "input 'x' is ['batch', 3, 'height', 'width'], which does not go",
        ),
        ("{x: {min: [1, 3, 4, 6], max: [1, 3, 4]}}", "dim_range: 'x' goes from [1, 3, 4, 6] to [1, 3, 4]"),
    ],
)
def test_a_range_that_the_graph_does_not_have_is_one_line(cli: Cli, tmp_path: Path, sizes: str, message: str) -> None:
    outcome = run(cli, tmp_path, None, sizes)
    assert outcome.code == 2
    assert message in outcome.last_line
    assert not (tmp_path / "parts").exists()


def test_a_size_that_was_frozen_is_told(cli: Cli, tmp_path: Path) -> None:
    outcome = run(cli, tmp_path, None, SIZES, "--set", "passes=[freeze-shapes]")
    assert outcome.code == 2
    assert "input 'x' is ['batch', 3, 4, 6], which does not go from [1, 3, 4, 6] to [3, 3, 8, 12]" in outcome.last_line


def test_a_shape_for_which_memory_is_short_is_told(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphsurgery.processes.peak_memory.Room.fits", lambda self, elements: elements < 100)
    outcome = run(cli, tmp_path)
    assert outcome.code == 0, outcome.err
    checks = json.loads((tmp_path / "parts" / "run.json").read_text("utf-8"))["checks"]
    (skipped,) = (check for check in checks if check["verdict"] == "unchecked")
    assert skipped["name"] == "x [3, 3, 8, 12]"
    assert "it was not tried" in skipped["skips"][0]["reason"]
    assert "it was not tried" in outcome.out


def test_without_checks_nothing_is_compared(cli: Cli, tmp_path: Path) -> None:
    assert run(cli, tmp_path, BAKED, SIZES, "--no-check").code == 0
