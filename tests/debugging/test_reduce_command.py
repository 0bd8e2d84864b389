"""The command `reduce`: what it leaves of a whole detector, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from conftest import Applied, Cli, Snapshot

from debugging.faulty_passes import HEAD, LONG
from graphsurgery.testing import parse

PLUGIN = '''\
"""Breaks the first activation, or does nothing."""

from dataclasses import dataclass

import numpy as np

from graphsurgery.graph import is_op
from graphsurgery.rewrite import GraphPass, NodePass


@dataclass(frozen=True)
class DropRelu(GraphPass):
    name = "drop-relu"
    effect = "exact"

    def rewrite(self, graph, edit):
        node = next(node for node in graph.nodes if is_op(node, "Relu"))
        edit.bypass(node, node.inputs[0])


@dataclass(frozen=True)
class ScaleConv(NodePass):
    name = "scale-conv"
    effect = "exact"
    by: float = 1.01
    nth: int = 20

    def rewrite(self, node, edit):
        convs = [n for n in edit.root.nodes if is_op(n, "Conv")]
        place = min(self.nth, len(convs) - 1)
        if is_op(node, "Conv") and node is convs[place] and not node.inputs[1].name.startswith("scaled"):
            edit.set_input(node, 1, edit.constant("scaled", node.inputs[1].values * np.float32(self.by)))


@dataclass(frozen=True)
class CrashOnRoi(GraphPass):
    name = "crash-on-roi"
    effect = "exact"

    def rewrite(self, graph, edit):
        if any(is_op(node, "RoiAlign") for node in graph.nodes):
            raise IndexError("no such level")


@dataclass(frozen=True)
class LeaveAlone(NodePass):
    name = "leave-alone"
    effect = "exact"

    def rewrite(self, node, edit):
        return
'''


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "mine.py"
    path.write_text(PLUGIN, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "nodes"), [("drop-relu", 2), ("scale-conv", 1), ("crash-on-roi", 1), ("widen-maxpool", 1)]
)
def test_the_whole_detector_is_reduced_to_a_node_or_two(
    cli: Cli, uncut: Applied, plugin: Path, tmp_path: Path, name: str, nodes: int
) -> None:
    out = tmp_path / "out"
    outcome = cli(
        *("reduce", uncut.folder / "shapes.onnx", "--pass", name, "--plugin", plugin),
        *("--inputs", uncut.model_io, "--out", out, "--json", tmp_path / "found.json"),
    )
    assert outcome.code == 1, outcome.err
    assert outcome.last_line.startswith(f"broken: pass '{name}' ")
    content = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert len(content["nodes"]) <= nodes
    assert content["nodes_before"] > 400
    before = onnx.load(out / "before.onnx")
    onnx.checker.check_model(before, full_check=True)
    assert {path.stem for path in (out / "inputs").iterdir()}
    again = cli(
        *("reduce", out / "before.onnx", "--pass", name, "--plugin", plugin, "--inputs", out / "inputs"),
        *("--out", tmp_path / "again"),
    )
    assert again.code == 1, again.err


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(parse(HEAD + LONG.replace("Sin", "Relu").strip()), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_folder_holds_what_a_bug_report_needs(cli: Cli, place: Path, plugin: Path) -> None:
    outcome = cli("reduce", "model.onnx", "--pass", "drop-relu", "--plugin", plugin)
    assert outcome.code == 1
    folder = place / "model.drop-relu.reduced"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert names == ["README.txt", "after.onnx", "before.onnx", "expected/e.npy", "inputs/d.npy"]
    text = (folder / "README.txt").read_text(encoding="utf-8")
    assert "Pass 'drop-relu' (exact) changes what is computed:" in text
    assert f"python -m graphsurgery reduce before.onnx --pass drop-relu --plugin {plugin} --inputs inputs" in text
    assert f"onnx {onnx.__version__}" in text
    assert "before.onnx holds 1 of the 8 nodes that the model had: Relu." in text
    assert sorted(path.name for path in place.iterdir()) == ["model.drop-relu.reduced", "model.onnx"]
    shown = cli("bisect", folder / "before.onnx", folder / "after.onnx", "--inputs", folder / "inputs")
    assert shown.code == 1
    assert "tensor 'e'" in shown.last_line


def test_an_earlier_reproduction_is_replaced(cli: Cli, place: Path, plugin: Path) -> None:
    for name in ("drop-relu", "drop-relu"):
        assert cli("reduce", "model.onnx", "--pass", name, "--plugin", plugin, "--out", "out").code == 1
    assert sorted(path.name for path in place.iterdir()) == ["model.onnx", "out"]


def test_a_folder_of_something_else_is_left_alone(cli: Cli, snapshot: Snapshot, place: Path, plugin: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "thesis.txt").write_text("mine", encoding="utf-8")
    before = snapshot(place)
    outcome = cli("reduce", "model.onnx", "--pass", "drop-relu", "--plugin", plugin, "--out", "out")
    assert outcome.code == 2
    assert "out: holds something else" in outcome.last_line
    assert snapshot(place) == before


def test_a_pass_that_breaks_nothing_ends_with_0_and_writes_nothing(
    cli: Cli, snapshot: Snapshot, place: Path, plugin: Path
) -> None:
    before = snapshot(place)
    outcome = cli("reduce", "model.onnx", "--pass", "leave-alone", "--plugin", plugin)
    assert outcome.code == 0, outcome.err
    assert "pass 'leave-alone' breaks nothing on these inputs" in outcome.out
    assert snapshot(place) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.onnx", "--pass", "simplify"), "missing.onnx: can't be read"),
        (("model.onnx", "--pass", "simplyfy"), "Did you mean 'simplify'?"),
        (("model.onnx", "--pass", "simplify", "--option", "x=1"), "unknown option 'x'"),
        (("model.onnx", "--pass", "simplify", "--inputs", "missing"), "missing: holds neither"),
        (("model.onnx",), "--pass"),
    ],
)
def test_a_wrong_reduce_is_one_line(
    cli: Cli, snapshot: Snapshot, place: Path, arguments: tuple[str, ...], said: str
) -> None:
    before = snapshot(place)
    outcome = cli("reduce", *arguments)
    assert outcome.code == 2
    assert outcome.last_line.startswith("error: ")
    assert said in outcome.last_line
    assert snapshot(place) == before


def test_help_shows_an_example(cli: Cli) -> None:
    outcome = cli("reduce", "--help")
    assert "Example: python -m graphsurgery reduce" in " ".join(outcome.out.replace("│", " ").split())
