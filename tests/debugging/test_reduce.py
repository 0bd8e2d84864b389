"""Passes that break something on purpose: what is left of the model is what the fault takes, and no more."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from conftest import Applied, Cli, Snapshot
from onnx import numpy_helper

from graphsurgery.debugging.breaks import break_whole
from graphsurgery.debugging.reduce import Reduction, configured, reduce_file
from graphsurgery.errors import InputError
from graphsurgery.gate.equivalence import Tolerances
from graphsurgery.graph import is_op, producer, subgraphs
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import walk_protos
from graphsurgery.progress import Silent
from graphsurgery.rewrite import Editor, GraphPass, NodePass, Pass
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>\n'

LONG = """
g (float[2, 3] x, float[2, 3] z) => (float[2, 3] y, float[2, 3] other) {
    a = Abs (x)
    b = Sqrt (a)
    c = Exp (b)
    d = Neg (c)
    e = Sin (d)
    f = Tanh (e)
    y = Add (f, z)
    other = Cos (c)
}"""

BRANCH = """
g (float[4] x, bool[1] on) => (float[4] y) {
    flag = Squeeze (on)
    a = Abs (x)
    b = If (flag) <
        then_branch = g1 () => (float[4] r) { p = Sqrt (a)  q = Sin (p)  k = Exp (q)  r = Tanh (k) },
        else_branch = g2 () => (float[4] s) { s = Neg (a) }>
    c = Neg (b)
    y = Cos (c)
}"""


@dataclass(frozen=True)
class SinBecomesCos(NodePass):
    name = "sin-becomes-cos"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if is_op(node, "Sin"):
            edit.replace(node, "Cos", list(node.inputs))


@dataclass(frozen=True)
class BreakPair(NodePass):
    """Turns Exp around, but only where a Neg reads it and a Sin reads that: all three are needed."""

    name = "break-pair"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        before = producer(node.inputs[0]) if node.inputs else None
        first = producer(before.inputs[0]) if is_op(before, "Neg") else None
        if is_op(node, "Sin") and is_op(first, "Exp"):
            edit.replace(node, "Cos", list(node.inputs))


@dataclass(frozen=True)
class BreakFar(GraphPass):
    """Breaks a Tanh wherever an Exp is before it, however far."""

    name = "break-far"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        for node in graph.nodes:
            above = node
            while above is not None and above.inputs:
                above = producer(above.inputs[0])
                if is_op(node, "Tanh") and is_op(above, "Exp"):
                    edit.replace(node, "Sin", list(node.inputs))
                    return


@dataclass(frozen=True)
class Crash(NodePass):
    name = "crash"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if is_op(node, "Sin") and is_op(producer(node.inputs[0]), "Neg"):
            raise KeyError("oops")
        if is_op(node, "Cos"):
            edit.replace(node, "Sin", list(node.inputs))


@dataclass(frozen=True)
class CrashGraph(GraphPass):
    name = "crash-graph"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        if any(is_op(node, "Sin") and is_op(producer(node.inputs[0]), "Neg") for node in graph.nodes):
            raise KeyError("oops")
        if any(is_op(node, "Abs") for node in graph.nodes):
            raise ValueError("another one")


@dataclass(frozen=True)
class Stop(NodePass):
    name = "stop"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if is_op(node, "Sin"):
            raise edit.fail(f"node '{node.outputs[0].name}' must not be here")


@dataclass(frozen=True)
class Invalid(NodePass):
    name = "invalid"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if is_op(node, "Sin"):
            edit.replace(node, "Add", list(node.inputs))


@dataclass(frozen=True)
class NotRunnable(NodePass):
    """What it leaves is valid, and fails when it runs."""

    name = "not-runnable"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if is_op(node, "Sin"):
            edit.replace(node, "Reshape", [node.inputs[0], edit.constant("to", [7, 7])])


@dataclass(frozen=True)
class OnlyOpenSizes(NodePass):
    name = "only-open-sizes"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if is_op(node, "Sin") and edit.static_shape(node.inputs[0]) is None:
            edit.replace(node, "Cos", list(node.inputs))


@dataclass(frozen=True)
class BreakInIf(GraphPass):
    """Breaks an Exp, but only one that stands in a branch."""

    name = "break-in-if"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        for node in (inner for outer in graph.nodes for body in subgraphs(outer) for inner in body.nodes):
            if is_op(node, "Exp"):
                edit.replace(node, "Cos", list(node.inputs))


@dataclass(frozen=True)
class Scale(NodePass):
    """Multiplies what Neg reads by `by`."""

    name = "scale"
    effect = "exact"
    by: float = 1.0

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        writer = producer(node.inputs[0]) if node.inputs else None
        if is_op(node, "Neg") and not is_op(writer, "Mul"):
            factor = edit.constant("factor", np.array(self.by, np.float32))
            edit.set_input(node, 0, edit.emit("Mul", [node.inputs[0], factor], hint="scaled"))


@dataclass(frozen=True)
class FoldWrongly(GraphPass):
    """Folds every Mul into the one before it, whose output keeps its name, and the factors of 7 wrongly."""

    name = "fold-wrongly"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        for node in [node for node in graph.nodes if is_op(node, "Mul")]:
            before = producer(node.inputs[0])
            if is_op(before, "Mul"):
                product = before.inputs[1].values * node.inputs[1].values
                product = product + np.float32(product == 21)
                edit.set_input(before, 1, edit.constant("product", product))
                edit.bypass(node, node.inputs[0])


def reduced(tmp_path: Path, text: str, pass_: Pass, **inputs: Any) -> Reduction | None:
    path = tmp_path / "model.onnx"
    onnx.save(parse(HEAD + text.strip()), path)
    for name, value in inputs.items():
        (tmp_path / "sample").mkdir(exist_ok=True)
        np.save(tmp_path / "sample" / f"{name}.npy", np.asarray(value))
    return reduce_file(path, pass_, tmp_path / "sample" if inputs else None, Tolerances(), Silent())


def operators(found: Reduction | None) -> list[str]:
    assert found is not None, "nothing was broken"
    onnx.checker.check_model(found.model.proto, full_check=True)
    return [node.op_type for node in walk_protos(found.model.proto.graph)]


# --- what is left -----------------------------------------------------------------------------------------------


def test_one_node_is_left_of_a_fault_in_one_node(tmp_path: Path) -> None:
    found = reduced(tmp_path, LONG, SinBecomesCos())
    assert operators(found) == ["Sin"]
    assert found is not None
    assert found.nodes == 8
    assert found.broken.kind == "difference"
    assert list(found.given) == found.model.inputs == ["d"]
    assert found.expected is not None
    np.testing.assert_allclose(found.expected["e"], np.sin(found.given["d"]), rtol=1e-6)


def test_a_fault_behind_right_folds_is_what_is_left(tmp_path: Path) -> None:
    text = """
    g (float[4] x) => (float[4] y) <float a = {2}, float b = {5}, float c = {3}, float d = {7}> {
        conv1 = Mul (x, a)
        bn1 = Mul (conv1, b)
        e = Exp (bn1)
        conv2 = Mul (e, c)
        bn2 = Mul (conv2, d)
        y = Neg (bn2)
    }"""
    found = reduced(tmp_path, text, FoldWrongly())
    assert operators(found) in (["Mul", "Mul"], ["Mul", "Mul", "Neg"])
    assert found is not None
    assert sorted(float(numpy_helper.to_array(w)) for w in found.model.proto.graph.initializer) == [3, 7]


def test_the_inputs_are_what_the_whole_model_computes_there(tmp_path: Path) -> None:
    x = np.linspace(0.1, 2, 6, dtype=np.float32).reshape(2, 3)
    found = reduced(tmp_path, LONG, SinBecomesCos(), x=x, z=x)
    assert found is not None
    np.testing.assert_allclose(found.given["d"], -np.exp(np.sqrt(x)), rtol=1e-6)
    assert found.sample == "sample"


def test_neighbours_that_the_fault_needs_stay(tmp_path: Path) -> None:
    assert operators(reduced(tmp_path, LONG, BreakPair())) == ["Exp", "Neg", "Sin"]


def test_nodes_between_that_the_fault_does_not_need_are_short_circuited(tmp_path: Path) -> None:
    assert operators(reduced(tmp_path, LONG, BreakFar())) == ["Exp", "Tanh"]


def test_a_crash_stays_a_crash(tmp_path: Path) -> None:
    found = reduced(tmp_path, LONG, Crash())
    assert operators(found) == ["Neg", "Sin"]
    assert found is not None
    assert (found.broken.kind, found.broken.mark, found.broken.after) == ("crash", "KeyError", None)


def test_a_crash_of_another_kind_is_another_fault(tmp_path: Path) -> None:
    found = reduced(tmp_path, LONG, CrashGraph())
    assert operators(found) == ["Neg", "Sin"]
    assert found is not None
    assert found.broken.mark == "KeyError"


def test_a_pass_that_stops_the_run_is_reduced(tmp_path: Path) -> None:
    found = reduced(tmp_path, LONG, Stop())
    assert operators(found) == ["Sin"]
    assert found is not None
    assert found.broken.kind == "stop"


@pytest.mark.parametrize("pass_", [Invalid(), NotRunnable()])
def test_a_model_that_does_not_run_any_more_is_reduced(tmp_path: Path, pass_: Pass) -> None:
    found = reduced(tmp_path, LONG, pass_)
    assert operators(found) == ["Sin"]
    assert found is not None
    assert found.broken.kind == "invalid"
    assert found.broken.after is not None


def test_open_sizes_stay_open_where_the_fault_needs_them(tmp_path: Path) -> None:
    text = LONG.replace("float[2, 3]", "float[n, 3]")
    x = np.ones((2, 3), np.float32)
    found = reduced(tmp_path, text, OnlyOpenSizes(), x=x, z=x)
    assert operators(found) == ["Sin"]
    assert found is not None
    sizes = found.model.proto.graph.input[0].type.tensor_type.shape.dim
    assert not sizes[0].HasField("dim_value")


def test_sizes_are_written_out_where_that_does_not_matter(tmp_path: Path) -> None:
    text = LONG.replace("float[2, 3]", "float[n, 3]")
    x = np.ones((2, 3), np.float32)
    found = reduced(tmp_path, text, SinBecomesCos(), x=x, z=x)
    assert found is not None
    ends = (*found.model.proto.graph.input, *found.model.proto.graph.output)
    assert all([dim.dim_value for dim in end.type.tensor_type.shape.dim] == [2, 3] for end in ends)


def test_a_fault_in_a_branch_is_cut_out_of_it(tmp_path: Path) -> None:
    found = reduced(tmp_path, BRANCH, SinBecomesCos(), x=np.ones(4, np.float32), on=[True])
    assert operators(found) == ["Sin"]
    assert found is not None
    assert found.path == ("If 'b' then_branch",)


def test_a_fault_that_needs_the_branch_keeps_it_and_empties_it(tmp_path: Path) -> None:
    found = reduced(tmp_path, BRANCH, BreakInIf(), x=np.ones(4, np.float32), on=[True])
    assert operators(found)[0] == "If"
    assert sorted(operators(found)) == ["Exp", "If", "Neg"]
    assert found is not None
    assert found.path == ()


def test_weights_come_along_and_no_others(tmp_path: Path) -> None:
    text = """
    g (float[2] x) => (float[2] y)
    <float[2] w = {1, 2}, float[2] v = {3, 4}> {
        k = Constant <value_floats = [5.0, 6.0]> ()
        a = Add (x, v)
        b = Mul (a, w)
        c = Sub (b, k)
        s = Sin (c)
        y = Add (s, v)
    }"""

    @dataclass(frozen=True)
    class BreakSub(NodePass):
        name = "break-sub"
        effect = "exact"

        def rewrite(self, node: gs.Node, edit: Editor) -> None:
            if is_op(node, "Sub") and is_op(producer(node.inputs[0]), "Mul"):
                edit.replace(node, "Add", list(node.inputs))

    found = reduced(tmp_path, text, BreakSub())
    assert operators(found) == ["Constant", "Mul", "Sub"]
    assert found is not None
    assert [tensor.name for tensor in found.model.proto.graph.initializer] == ["w"]


def test_a_pass_that_breaks_nothing_gives_nothing(tmp_path: Path) -> None:
    assert reduced(tmp_path, LONG, Scale()) is None
    assert operators(reduced(tmp_path, LONG, Scale(by=1.5))) == ["Neg"]


def test_a_difference_within_the_tolerance_is_none(tmp_path: Path) -> None:
    model = Model(parse(HEAD + LONG.strip()))
    given = {name: np.ones((2, 3), np.float32) for name in ("x", "z")}
    strict, _ = break_whole(Scale(by=1.001), model, given, Tolerances())
    loose, _ = break_whole(Scale(by=1.001), model, given, Tolerances.parse({"*": 0.1}))
    assert strict is not None
    assert loose is None


# --- options ----------------------------------------------------------------------------------------------------


def test_options_are_read_as_in_a_recipe() -> None:
    assert configured("freeze-batch", ["size=7"]).size == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["size"], "--option size: write it as --option NAME=VALUE"),
        (["size=many"], "--option size=many: "),
        (["sise=7"], "Did you mean 'size'?"),
        (["size=7", "size=8"], "is given twice"),
        ([], "needs the option 'size'"),
    ],
)
def test_a_wrong_option_is_refused(options: list[str], said: str) -> None:
    with pytest.raises(InputError, match="option") as refusal:
        configured("freeze-batch", options)
    assert said in str(refusal.value)


# --- the command ------------------------------------------------------------------------------------------------

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
