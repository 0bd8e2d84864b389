"""A sweep comes to the operators that its pass looks at, in the order of the graph, whatever becomes one meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs
import pytest

from graphsurgery import graph as graphs
from graphsurgery.graph import clean_up
from graphsurgery.graph.model import Model
from graphsurgery.rewrite import Editor, NodePass, Pass, apply_pass, apply_passes
from graphsurgery.rewrite import apply as applying
from graphsurgery.rewrite.by_operator import ByOperator
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
CHAIN = "g (float[2] x) => (float[2] y) { a = Neg (x)  b = Relu (a)  c = Abs (b)  d = Relu (c)  y = Neg (d) }"
BODIES = """
    g (bool c, float[2] x) => (float[2] y) {
        a = Relu (x)
        b = If (c) <then_branch = t () => (float[2] p) { o = Neg (a)  p = Relu (o) },
                    else_branch = e () => (float[2] q) { q = Neg (a) }>
        y = Neg (b)
    }"""


def model(text: str) -> Model:
    return Model(parse(f"{HEAD}\n{text}"))


def walked(graph: gs.Graph, ops: tuple[str, ...] | None, meet: Callable[[gs.Node, list[gs.Node]], None]) -> list[str]:
    changed: list[gs.Node] = []
    seen = []
    for _, node in ByOperator(graph).walk(ops, changed):
        seen.append(node.outputs[0].name)
        meet(node, changed)
    return seen


def nothing(node: gs.Node, changed: list[gs.Node]) -> None:
    """Leave everything as it is."""


@pytest.mark.parametrize(
    ("ops", "seen"), [(("Relu",), ["b", "d"]), (("Neg", "Abs"), ["a", "c", "y"]), ((), []), (None, list("abcdy"))]
)
def test_comes_to_operators_in_the_order_of_the_graph(ops: tuple[str, ...] | None, seen: list[str]) -> None:
    assert walked(model(CHAIN).graph(), ops, nothing) == seen


def test_comes_to_bodies_behind_the_graph_around_them() -> None:
    graph = model(BODIES).graph()
    assert walked(graph, ("Neg",), nothing) == ["y", "o", "q"]
    assert [len(ByOperator(graph)), len(graph.nodes)] == [6, 3]


def test_comes_to_what_has_become_such_an_operator_further_on_alone() -> None:
    """As a walk over all nodes would."""
    graph = model(CHAIN).graph()
    by_name = {node.outputs[0].name: node for node in graph.nodes}

    def meet(node: gs.Node, changed: list[gs.Node]) -> None:
        if node is by_name["b"]:
            for name in ("y", "a", "c"):
                by_name[name].op = "Relu"
                changed.append(by_name[name])

    assert walked(graph, ("Relu",), meet) == ["b", "c", "d", "y"]


def test_does_not_come_to_what_has_left_a_body_meanwhile() -> None:
    graph = model(BODIES).graph()

    def meet(node: gs.Node, changed: list[gs.Node]) -> None:
        for body in graph.nodes[1].attrs.values():
            body.nodes = []

    assert walked(graph, ("Neg",), meet) == ["y"]


class DropRelu(NodePass):
    name = "drop-relu"
    effect = "approximate"
    matches = ("Relu",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        edit.bypass(node, node.inputs[0])


class ToRelu(NodePass):
    """Makes a Relu of the Abs behind a Neg, and of a Relu nothing but a note."""

    name = "to-relu"
    effect = "approximate"
    matches = ("Neg", "Relu")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if node.op == "Relu":
            return edit.skip(node, "a Relu")
        for behind in node.outputs[0].outputs:
            if behind.op == "Abs":
                edit.replace(behind, "Relu", list(behind.inputs))


def test_a_sweep_comes_to_a_node_that_the_pass_has_replaced_further_on() -> None:
    text = "g (float[2] x) => (float[2] y) { a = Neg (x)  b = Abs (a)  y = Neg (b) }"
    applied = apply_pass(ToRelu(), model(text))
    assert [node.op_type for node in applied.model.proto.graph.node] == ["Neg", "Relu", "Neg"]
    assert [skip.node for skip in applied.skips] == ["b"]


class Looks(NodePass):
    name = "looks"
    effect = "exact"
    matches = ("Neg",)
    seen: list[str] = []

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        self.seen.append(node.outputs[0].name)


def test_passes_in_a_row_look_through_a_graph_again_only_where_one_changed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"made": 0, "looked through": 0}

    class Counted(ByOperator):
        def __init__(self, root: gs.Graph) -> None:
            counts["made"] += 1
            super().__init__(root)

    found = clean_up._unneeded_in_order

    def counted(graph: gs.Graph) -> list[gs.Node] | None:
        counts["looked through"] += 1
        return found(graph)

    monkeypatch.setattr(applying, "ByOperator", Counted)
    monkeypatch.setattr(clean_up, "_unneeded_in_order", counted)
    passes: list[Pass] = [Looks(), Looks(), DropRelu(), Looks(), Looks()]
    Looks.seen.clear()
    apply_passes(passes, model(CHAIN))
    assert Looks.seen == ["a", "y"] * 4
    assert counts == {"made": 2, "looked through": 2}  # at first, and behind the sweep that edited


def test_the_outputs_of_bodies_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = model(BODIES).graph()
    walks = []
    walk = graphs.walk_graphs
    monkeypatch.setattr(graphs, "walk_graphs", lambda root: walks.append(root) or walk(root))
    edit = Editor(graph)
    tensors = {tensor.name: tensor for inner in walk(graph) for node in inner.nodes for tensor in node.outputs}
    assert [name for name, tensor in tensors.items() if edit.is_output(tensor)] == ["y", "p", "q"]
    assert len(walks) == 1
    edit.replace(graph.nodes[1], "Relu", [tensors["a"]])
    assert [name for name, tensor in tensors.items() if edit.is_output(tensor)] == ["y"]
