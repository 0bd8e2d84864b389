"""What a graph computes as a later one tells it: bit for bit what a run of its own gives, or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphsurgery.capture.samples import Sample
from graphsurgery.devices import session
from graphsurgery.gate.gate import Tensors
from graphsurgery.graph.model import Model
from graphsurgery.pipeline import changed_nodes
from graphsurgery.pipeline.changed_nodes import told_by_later
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]> g (float[2, 6] x) => (float[N, M] y) '
COMPUTES = "<float[1] half = {0.5}>"
WEIGHTS = "<int64[2] shape = {3, 4}, float[1] half = {0.5}>"
# x times w, then reshaped to a shape that is computed from that of x
COMPUTED = """{
    h = MatMul (x, w)
    size = Shape (h)
    two = Constant <value = int64[2] {1, -2}> ()
    shape = Add (size, two)
    r = Reshape (h, shape)
    y = Relu (r)
}"""
FOLDED = """{
    h = MatMul (x, w)
    r = Reshape (h, shape)
    y = Relu (r)
}"""
RENAMED = FOLDED.replace("h =", "other =").replace("(h,", "(other,")


def model(body: str, head: str = HEAD, weights: str = WEIGHTS, *, seed: int = 0) -> Model:
    """Return a model with a weight `w` [6,6] of random numbers."""
    made = Model(parse(f"{head} {weights} {body}"))
    values = np.random.default_rng(seed).standard_normal((6, 6)).astype(np.float32)
    made.proto.graph.initializer.append(numpy_helper.from_array(values, "w"))
    return made


def sample(**tensors: np.ndarray) -> Sample:
    given = tensors or {"x": np.random.default_rng(1).standard_normal((2, 6)).astype(np.float32)}
    return Sample("1", Path(), None, height=8, width=8, computed=given)


def told(graph: Model, later: Model, *names: str, on: Sample | None = None) -> tuple[Tensors | None, Tensors | None]:
    (found,), own = told_by_later([graph], later, names, on or sample())
    return found, own


def assert_told(graph: Model, later: Model, on: Sample | None = None) -> None:
    """What is told must be what a run gives, to the bit."""
    on = on or sample()
    found, own = told(graph, later, on=on)
    assert found is not None
    for model_, seen in ((graph, found), (later, own)):
        assert seen is not None
        ran = session.run(model_.proto, {name: on.load(name) for name in model_.inputs})
        assert {name: value.tobytes() for name, value in seen.items()} == {
            name: ran[name].tobytes() if name in ran else on.load(name).tobytes() for name in model_.outputs
        }


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The operators of each session that is made."""
    made: list[list[str]] = []
    original = session.Session.__init__

    def init(self: session.Session, model: onnx.ModelProto, **options: object) -> None:
        made.append([node.op_type for node in model.graph.node])
        original(self, model, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(session.Session, "__init__", init)
    return made


def test_only_the_nodes_that_a_pass_took_away_are_run(runs: list[list[str]]) -> None:
    assert_told(model(COMPUTED, weights=COMPUTES), model(FOLDED))
    assert runs[1] == ["Shape", "Add"]


def test_the_later_graph_gives_what_is_asked_beside_its_outputs() -> None:
    _, own = told(model(COMPUTED, weights=COMPUTES), model(FOLDED), "h")
    assert own is not None
    assert sorted(own) == ["h", "y"]


def test_equal_graphs_and_outputs_that_are_inputs_or_constants_need_no_run(runs: list[list[str]]) -> None:
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[2, 6] x) => (float[2, 6] x, float[1] half, float[2, 6] y) '
    body = "{ y = MatMul (x, w) }"
    assert_told(model(body, head), model(body, head))
    assert len([ops for ops in runs if ops]) == 3  # the later one, and the two that the test compares with


def test_a_tensor_that_differs_tells_nothing_of_what_reads_it() -> None:
    """The later graph has another shape than the one that the graph computes."""
    wrong = model(FOLDED, weights=WEIGHTS.replace("{3, 4}", "{4, 3}"))
    found, own = told(model(COMPUTED, weights=COMPUTES), wrong)
    assert found is None
    assert own is not None


def test_a_difference_in_the_last_bit_is_one() -> None:
    one = "{ h = MatMul (x, w)\n k = Mul (h, half)\n y = Relu (k) }"
    two = "{ h = MatMul (x, w)\n inverse = Reciprocal (half)\n k = Div (h, inverse)\n y = Relu (k) }"
    assert_told(model(one), model(two))  # halves are exact
    weights = WEIGHTS.replace("0.5", "0.7")
    assert told(model(one, weights=weights), model(two, weights=weights))[0] is None


def test_a_fault_that_the_later_graph_has_not_is_told() -> None:
    """A wrong pass whose fault the next one takes back: the graph between them is as wrong as it is."""
    sound = model("{ h = MatMul (x, w)\n y = Relu (h) }")
    wrong = model("{ h = MatMul (x, w)\n y = LeakyRelu (h) }")
    found, own = told(wrong, sound)
    assert found is not None
    assert own is not None
    assert found["y"].min() < 0 <= own["y"].min()


def test_other_weights_are_another_node() -> None:
    assert told(model(FOLDED), model(FOLDED, seed=1))[0] is None  # as it gives another h, which Reshape reads
    assert_told(model("{ y = MatMul (x, w) }"), model("{ y = MatMul (x, w) }", seed=1))


def test_random_nodes_are_always_run(runs: list[list[str]]) -> None:
    """What they gave in one run says nothing about another."""
    noisy = "{ n = RandomNormalLike (x)\n h = Add (x, n)\n y = Relu (h) }"
    told(model(noisy), model(noisy))
    assert runs[1] == ["RandomNormalLike"]


def test_what_a_body_reads_from_around_it_counts() -> None:
    """The node with the body stands in both, and the tensor that its body takes in is another one."""

    def branching(writer: str) -> Model:
        made = model(f"{{ c = {writer} (x)\n cond = Constant <value = bool {{1}}> ()\n y = Relu (x) }}")
        branch = helper.make_graph(
            [helper.make_node("Neg", ["c"], ["b"])], "then", [], [helper.make_value_info("b", onnx.TypeProto())]
        )
        made.proto.graph.node[-1].CopyFrom(
            helper.make_node("If", ["cond"], ["y"], then_branch=branch, else_branch=branch)
        )
        return made

    assert told(branching("Abs"), branching("Relu"))[0] is None
    assert_told(branching("Abs"), branching("Abs"))


def test_graphs_with_other_inputs_or_operator_sets_tell_nothing() -> None:
    graph = model(FOLDED)
    assert told(graph, model(FOLDED, HEAD.replace("17", "16")))[0] is None
    other = model(FOLDED.replace("(x, w)", "(z, w)"), HEAD.replace("6] x", "6] z"))
    assert told(graph, other, on=sample(x=np.ones((2, 6), np.float32), z=np.ones((2, 6), np.float32)))[0] is None


def test_a_later_graph_that_can_not_be_run_tells_nothing() -> None:
    assert told(model(FOLDED), model(FOLDED.replace("Relu", "NoSuchOperator"))) == (None, None)
    assert told(model(FOLDED), model(FOLDED, weights=WEIGHTS.replace("{3, 4}", "{5, 5}"))) == (None, None)


@pytest.mark.parametrize("small", ["_SMALL", "_FEW"])
def test_most_of_the_weights_or_of_many_nodes_are_not_tried(
    monkeypatch: pytest.MonkeyPatch, runs: list[list[str]], small: str
) -> None:
    assert told(model(FOLDED), model(RENAMED))[0] is not None
    runs.clear()
    monkeypatch.setattr(changed_nodes, small, 0)
    found, own = told(model(FOLDED), model(RENAMED))
    assert found is None
    assert own is not None
    assert len(runs) == 1
    assert told(model(COMPUTED, weights=COMPUTES), model(FOLDED))[0] is not None  # two of five


def test_no_more_is_asked_for_than_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, later = model(COMPUTED, weights=COMPUTES), model(FOLDED)
    later.proto.graph.value_info.append(helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, [2, 6]))
    monkeypatch.setattr(changed_nodes, "_MOST_ASKED", 47)
    found, own = told(graph, later)
    assert found is None
    assert own is not None
    monkeypatch.setattr(changed_nodes, "_MOST_ASKED", 48 + 4 * 1000)
    assert told(graph, later)[0] is not None


@pytest.mark.parametrize(
    "body",
    [
        "{ h = Cast <to = 10> (x)\n k = Abs (h)\n y = Cast <to = 1> (k) }",
        "{ h = Constant <value = float16[1] {1}> ()\n k = Cast <to = 1> (h)\n y = Mul (x, k) }",
    ],
)
def test_graphs_that_compute_in_16_bits_are_run(body: str) -> None:
    """Where ONNX Runtime rounds depends there on which nodes stand side by side: Exp, Sqrt, Log are rounded once."""
    assert told(model(body), model(body))[0] is None
    assert_told(model(body.replace("10", "11").replace("16", "")), model(body.replace("10", "11").replace("16", "")))
