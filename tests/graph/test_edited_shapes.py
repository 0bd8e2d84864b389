"""What the Editor says of shapes and types while a pass changes the graph: never what the graph was before."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphsurgery import graph as graphs
from graphsurgery.graph import shapes
from graphsurgery.graph.edited_shapes import EditedShapes
from graphsurgery.graph.model import Model
from graphsurgery.graph.view import to_proto
from graphsurgery.rewrite import GraphPass, NodePass, apply_pass
from graphsurgery.rewrite.editor import Editor
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
RESHAPED = """
    g (float[2, 3] x) => (float[n, m] y) <int64[2] s = {3, 2}> {
        a = Reshape (x, s)
        b = Relu (a)
        c = Abs (b)
        y = Neg (c)
    }"""


def view(text: str) -> tuple[gs.Graph, Editor]:
    graph = Model(parse(f"{HEAD}\n{text}")).graph()
    return graph, Editor(graph)


def named(graph: gs.Graph, name: str) -> gs.Tensor:
    return next(t for node in graphs.walk_nodes(graph) for t in (*node.outputs, *node.inputs) if t.name == name)


def test_a_shape_is_that_of_the_graph_as_it_is_now() -> None:
    graph, edit = view(RESHAPED)
    assert edit.shape(named(graph, "c")) == [3, 2]
    edit.set_input(graph.nodes[0], 1, edit.constant("six", [6, 1]))
    assert edit.shape(named(graph, "c")) == [6, 1]
    assert edit.shape(named(graph, "b")) == [6, 1]
    edit.set_input(graph.nodes[0], 1, edit.constant("one", [1, 6]))
    edit.set_input(graph.nodes[1], 0, graph.inputs[0])
    assert edit.shape(named(graph, "a")) == [1, 6]
    assert edit.shape(named(graph, "c")) == [2, 3]


def test_a_type_is_that_of_the_graph_as_it_is_now() -> None:
    graph, edit = view("g (float[2] x) => (float16[2] y) { a = Cast <to = 10> (x)  b = Relu (a)  y = Neg (b) }")
    cast, relu, _ = graph.nodes
    assert edit.dtype(relu.outputs[0]) == np.float16
    edit.set_attribute(cast, "to", np.float64)
    assert edit.dtype(relu.outputs[0]) == np.float64
    edit.bypass(cast, graph.inputs[0])
    assert edit.dtype(relu.outputs[0]) == np.float32


def test_a_value_that_a_shape_is_computed_from_is_followed() -> None:
    graph, edit = view("""
        g (float[4, 6] x, float[6, 4] z) => (float[n, m] y) <int64[1] last = {-1}, int64[1] at = {0}> {
            shape = Shape (x)
            rows = Gather <axis = 0> (shape, at)
            target = Concat <axis = 0> (rows, last)
            a = Reshape (x, target)
            y = Neg (a)
        }""")
    a = named(graph, "a")
    assert edit.shape(a) == [4, 6]
    edit.set_input(graph.nodes[0], 0, graph.inputs[1])  # Shape and all behind it write what they wrote, but for values
    assert edit.shape(a) == [6, 4]
    edit.set_input(graph.nodes[1], 1, edit.constant("second", [1]))
    assert edit.shape(a) == [4, 6]


def test_the_value_of_a_constant_node_is_followed_whatever_its_type() -> None:
    graph, edit = view("""
        g (float[1, 1, 2, 2] x) => (float[1, 1, h, w] y) {
            s = Constant <value = float[4] {1, 1, 2, 2}> ()
            a = Resize <mode = "nearest"> (x, , s)
            y = Neg (a)
        }""")
    a = named(graph, "a")
    assert edit.shape(a) == [1, 1, 4, 4]
    edit.set_attribute(graph.nodes[0], "value", gs.Constant("", np.float32([1, 1, 3, 3])))
    assert edit.shape(a) == [1, 1, 6, 6]


def test_new_nodes_and_taken_over_tensors_are_known() -> None:
    graph, edit = view(RESHAPED)
    b, c = named(graph, "b"), named(graph, "c")
    assert edit.shape(c) == [3, 2]
    turned = edit.emit("Transpose", [b], {"perm": [1, 0]}, hint="turned")
    assert edit.shape(turned) == [2, 3]
    edit.emit("Transpose", [turned], {"perm": [1, 0]}, hint="back", writes=c)
    assert edit.shape(c) == [3, 2]
    edit.emit("Exp", [turned], hint="exp", writes=c)
    assert edit.shape(c) == [2, 3]
    assert edit.dtype(c) == np.float32


def test_what_nothing_writes_any_more_is_not_known() -> None:
    graph, edit = view(RESHAPED)
    relu, b = graph.nodes[1], named(graph, "b")
    assert edit.shape(b) == [3, 2]
    edit.bypass(relu, named(graph, "a"))
    assert edit.shape(b) is None


BODIES = """
    g (bool c, float[2, 3] x, float[6] z) => (float[n, m] y) <int64[2] s = {3, 2}> {
        a = Reshape (x, s)
        r = If (c) <
            then_branch = t () => (float[k, l] p) { u = Relu (a)  p = Exp (u) },
            else_branch = e () => (float[k, l] q) { q = Neg (a) }
        >
        d = Abs (r)
        y = Neg (d)
    }"""


def test_what_is_behind_a_body_and_in_it_is_followed() -> None:
    graph, edit = view(BODIES)
    body = graph.nodes[1].attrs["then_branch"]
    u, d = named(graph, "u"), named(graph, "d")
    assert (edit.shape(u), edit.shape(d)) == ([3, 2], [3, 2])
    edit.set_input(graph.nodes[0], 1, edit.constant("six", [6, 1]))
    assert (edit.shape(u), edit.shape(d)) == ([6, 1], [6, 1])
    edit.graph = body
    edit.replace(body.nodes[0], "Transpose", body.nodes[0].inputs)
    assert edit.shape(u) == [1, 6]
    assert edit.shape(d) != [6, 1], "one branch writes another shape now than the other"
    new = edit.emit("Relu", [u], hint="new")
    assert edit.shape(new) == [1, 6]


def test_a_tensor_that_is_a_bodys_output_from_outside_is_followed() -> None:
    graph, edit = view(BODIES)
    for body in graphs.subgraphs(graph.nodes[1]):
        body.outputs = [named(graph, "a")]
    d = named(graph, "d")
    assert edit.shape(d) == Editor(graph).shape(d)  # onnx 1.23 does not look it up
    edit.set_input(graph.nodes[0], 1, edit.constant("six", [6, 1]))
    assert edit.shape(d) == Editor(graph).shape(d)


def test_a_change_past_the_editor_is_noticed() -> None:
    graph, edit = view(RESHAPED)
    c = named(graph, "c")
    assert edit.shape(c) == [3, 2]
    graphs.set_inputs(graph.nodes[2], [graph.inputs[0]])
    assert edit.shape(c) == [2, 3]
    graphs.set_inputs(graph.nodes[2], [named(graph, "b")])
    edit.set_attribute(graph.nodes[3], "hint", 1)  # an edit through it hides none that was before
    assert edit.shape(c) == [3, 2]
    node = gs.Node("Transpose", "added", {}, [c], [gs.Variable("turned")])
    graph.nodes.append(node)
    assert edit.shape(node.outputs[0]) == [2, 3]


def test_a_question_does_not_change_the_graph() -> None:
    graph, edit = view(RESHAPED)
    edit.bypass(graph.nodes[1], named(graph, "a"))
    graph.nodes.reverse()
    lists = [inner.nodes for inner in graphs.walk_graphs(graph)]
    before, text = list(graph.nodes), to_proto(graph)
    assert edit.shape(named(graph, "c")) == [3, 2]
    assert edit.dtype(named(graph, "y")) == np.float32
    assert graph.nodes is lists[0]
    assert all(now is then for now, then in zip(graph.nodes, before, strict=True))
    assert to_proto(graph) == text


def test_unknown_sizes_that_inference_makes_up_at_different_times_are_different_sizes() -> None:
    graph, edit = view("""
        g (float[2, 3] x, float[2, 3] z) => (int64[2, n] y, int64[2, m] w) {
            a = NonZero (x)
            y = Identity (a)
            b = NonZero (z)
            w = Identity (b)
        }""")
    for new in ("Relu", "Neg"):  # each is inferred anew by itself
        for node in (graph.nodes[0], graph.nodes[2]):
            edit.set_input(node, 0, edit.emit(new, [node.inputs[0]], hint="new"))
            edit.shape(node.outputs[0])
        first, second = (edit.shape(named(graph, name)) for name in "ab")
        assert first is not None
        assert second is not None
        assert first[1] is None or first[1] != second[1]


def test_where_an_edit_makes_a_node_that_can_not_be_inferred_the_others_are_known_still() -> None:
    graph, edit = view(RESHAPED.replace("y = Neg (c)", "y = Neg (c)  other = Transpose (x)"))
    assert edit.shape(named(graph, "other")) == [3, 2]
    edit.set_attribute(graph.nodes[-1], "perm", [0, 1, 2])
    assert edit.shape(named(graph, "other")) is None
    assert edit.shape(named(graph, "c")) == [3, 2]


def test_sequences_are_followed() -> None:
    graph, edit = view("""
        g (float[2, 3] x, int64 i) => (float[n, m] y) {
            a = Relu (x)
            s = SequenceConstruct (a, a)
            t = Identity (s)
            b = SequenceAt (t, i)
            y = Neg (b)
        }""")
    b = named(graph, "b")
    assert edit.shape(b) == [2, 3]
    edit.replace(graph.nodes[0], "Transpose", graph.nodes[0].inputs)
    assert edit.shape(b) == [3, 2]
    edit.replace(graph.nodes[2], "Identity", [named(graph, "s")])
    assert edit.shape(b) == [3, 2]


class Ask(NodePass):
    name = "ask"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if node.op == "Relu" and edit.shape(node.inputs[0]) is not None:
            edit.replace(node, "Clip", [node.inputs[0], edit.constant("zero", np.float32(0))])


class AskInTheEnd(GraphPass):
    name = "ask-in-the-end"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        for node in list(graph.nodes):
            Ask().rewrite(node, edit)


@pytest.mark.parametrize("pass_", [Ask(), AskInTheEnd()])
def test_many_questions_between_many_edits_are_answered_fast(pass_: NodePass | GraphPass) -> None:
    chain = " ".join(f"a{i} = Relu (a{i - 1})  b{i} = Neg (a{i})  c{i} = Add (b{i}, a{i})" for i in range(1, 2000))
    text = f"{HEAD} g (float[n] a0) => (float[n] y) {{ {chain} y = Neg (c1999) }}"
    begin = time.perf_counter()
    after = apply_pass(pass_, Model(parse(text))).model
    assert sum(node.op_type == "Clip" for node in after.proto.graph.node) == 1999
    assert time.perf_counter() - begin < 20


# --- any edits ----------------------------------------------------------------------------------------------------

ANY = """
    g (float[2, 3] x, float[4, 6] z, bool c, float[2, k] u) => (float[n, m] y) <
        int64[2] s = {3, 2}, int64[1] first = {0}, int64[1] rest = {-1}
    > {
        a = Reshape (x, s)
        b = Transpose (a)
        shape = Shape (z)
        rows = Gather <axis = 0> (shape, first)
        target = Concat <axis = 0> (rows, rest)
        d = Reshape (z, target)
        found = NonZero (u)
        cast = Cast <to = 1> (found)
        r = If (c) <
            then_branch = t () => (float[k, l] p) { i = Relu (b)  p = Exp (i) },
            else_branch = e () => (float[k, l] q) { j = Transpose (a)  q = Neg (j) }
        >
        f = Relu (r)
        w = Concat <axis = 1> (d, d)
        v = Relu (w)
        h = Neg (f)
        y = Identity (h)
    }"""
SAME = ("Relu", "Neg", "Exp", "Transpose", "Identity", "NonZero", "Shape")


def any_edit(graph: gs.Graph, edit: Editor, draw: Callable[[int], int]) -> None:
    """Change something, whatever becomes of the model."""
    inner = list(graphs.walk_graphs(graph))
    edit.graph = inner[draw(len(inner))]
    nodes = [node for node in edit.graph.nodes if node.outputs]
    node = nodes[draw(len(nodes))]
    floats = [*graph.inputs[:2], *(t for n in nodes[: nodes.index(node)] for t in n.outputs)]
    source = floats[draw(len(floats))]
    kind = draw(5)
    if node.op in SAME and kind == 0:
        edit.replace(node, SAME[draw(len(SAME))], [source])
    elif node.op in SAME and kind == 1:
        edit.bypass(node, node.inputs[0])
    elif node.op in (*SAME, "Reshape") and kind == 2:
        edit.set_input(node, 0, edit.emit(SAME[draw(len(SAME))], [source], hint="new"))
    elif node.op == "Reshape":
        edit.set_input(node, 1, edit.constant("to", [[6, 1], [1, 6], [-1], [2, 3], [4, 6], [8, 3]][draw(6)]))
    elif node.op == "Cast":
        edit.set_attribute(node, "to", [np.float32, np.float16, np.int64][draw(3)])
    elif node.op == "Concat":
        edit.set_attribute(node, "axis", draw(2))
    elif node.op == "Gather":
        edit.set_input(node, 1, edit.constant("at", [draw(2)]))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_after_any_edits_an_answer_is_what_a_fresh_inference_says(data: st.DataObject) -> None:
    graph, edit = view(ANY)

    def draw(count: int) -> int:
        return data.draw(st.integers(0, count - 1))

    for _ in range(draw(12) + 1):
        any_edit(graph, edit, draw)
        tensors = [t for node in graphs.walk_nodes(graph) for t in node.outputs if t.name]
        fresh = Editor(graph)
        found = {id(tensor): known(fresh.shape(tensor)) for tensor in tensors}
        asked = tensors if draw(3) == 0 else [tensors[draw(len(tensors))] for _ in range(draw(4))]
        for tensor in asked if not fresh.skips else ():  # what can't be inferred as a whole may be in pieces
            assert edit.dtype(tensor) == fresh.dtype(tensor), tensor.name
            assert known(edit.shape(tensor)) == found[id(tensor)], tensor.name


def known(shape: list[int | str | None] | None) -> list[int | str | None] | None:
    """Return a shape without the names that inference makes up."""
    return shape and [None if str(size).startswith("unk__") else size for size in shape]


def test_the_answers_are_those_of_onnx() -> None:
    graph, edit = view(ANY)
    inferred = onnx.shape_inference.infer_shapes(parse(f"{HEAD}\n{ANY}"), data_prop=True)
    for info in inferred.graph.value_info:
        dims = info.type.tensor_type.shape.dim
        expected = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims]
        assert edit.shape(named(graph, info.name)) == expected


def test_a_shape_that_is_written_down_is_no_answer() -> None:
    graph, edit = view("""
        g (float[1, 3, h, w] x) => (float[1, 3, 8, 8] y) <float[1, 3, 9, 9] a, float[1, 3, 8, 8] b> {
            a = Relu (x)
            b = Doubled (a)
            c = Abs (b)
            y = Neg (a)
        }""")
    assert edit.shape(named(graph, "a")) == [1, 3, "h", "w"]
    assert edit.shape(graph.outputs[0]) == [1, 3, "h", "w"]
    assert edit.shape(named(graph, "b")) is None
    assert edit.shape(named(graph, "c")) is None
    assert edit.shape(graph.inputs[0]) == [1, 3, "h", "w"]


def test_a_shape_that_is_written_down_in_a_body_is_no_answer() -> None:
    graph, edit = view("""
        g (float[5, 3, h] x, int64 n, bool go, float[2] z) => (float[4, 2] y, float[5, 3, 7] u) {
            v, y = Loop (n, go, z) <body = turn (int64 i, bool on, float[2] s) => (bool on2, float[2] t, float[2] o) {
                on2 = Identity (on)
                t = Concat <axis = 0> (s, s)
                o = Neg (s)
            }>
            u = Scan <num_scan_inputs = 1, body = each (float[3, 7] row) => (float[3, 7] out) { out = Neg (row) }> (x)
        }""")
    assert edit.shape(named(graph, "on")) == []
    assert edit.shape(named(graph, "s")) is None
    assert edit.shape(named(graph, "o")) is None
    assert edit.shape(named(graph, "row")) == [3, "h"]
    assert edit.shape(named(graph, "out")) == [3, "h"]


def test_an_edit_is_followed_where_shapes_are_written_down() -> None:
    graph, edit = view(RESHAPED.replace("{3, 2}>", "{3, 2}, float[3, 2] a, float[3, 2] b, float[3, 2] c>"))
    assert edit.shape(named(graph, "c")) == [3, 2]
    edit.set_input(graph.nodes[0], 1, edit.constant("six", [6, 1]))
    assert edit.shape(named(graph, "c")) == [6, 1]


def test_what_is_written_down_stays_in_the_file_where_the_inputs_do_not_tell_another_size() -> None:
    graph, edit = view("""
        g (float[1, 3, h, 4] x) => (float[1, 3, 8, 8] y) <float[1, 3, 9, 9] a, float[2, 8] b> {
            a = Relu (x)
            b = Doubled (a)
            c = Abs (b)
            y = Neg (a)
        }""")
    edit.infer_shapes()
    assert named(graph, "a").shape == [1, 3, 9, 4]
    assert named(graph, "b").shape == named(graph, "c").shape == [2, 8]


def test_a_node_like_one_before_it_is_not_inferred_again() -> None:
    nodes = "\n".join(f"t{n + 1} = Clip (t{n}, zero)" for n in range(20))
    text = f"g (float[2, 3] x) => (float[n, m] t20) <float zero = {{0}}> {{ t0 = Neg (x)\n {nodes} }}"
    graph = Model(parse(f"{HEAD}\n{text}")).graph()
    inferred = []

    def infer(proto: onnx.ModelProto) -> onnx.ModelProto:
        inferred.append(len(proto.graph.node))
        return shapes.infer(proto, None)

    known = EditedShapes(graph, infer)
    for node in graph.nodes[1:]:
        assert known.of(node.inputs[0]).shape == (2, 3)
        node.op = "Relu"
        graphs.set_inputs(node, [node.inputs[0]])
        known.edited([node])
    assert inferred == [21, 1]


@pytest.mark.parametrize(
    ("first", "second", "shape"),
    [
        ("Transpose <perm = [1, 0]> (x)", "Transpose <perm = [0, 1]> (x)", (2, 3)),
        ("Cast <to = 1> (x)", "Cast <to = 10> (x)", (2, 3)),
        ("Reshape (x, s)", "Reshape (x, r)", (6, 1)),
        ("Expand (x, s)", "Expand (x, e)", (4, 2, 3)),
        ("Flatten <axis = 0> (x)", "Flatten <axis = 2> (x)", (6, 1)),
    ],
)
def test_a_node_that_differs_from_one_before_it_is_inferred(first: str, second: str, shape: tuple[int, ...]) -> None:
    stored = "int64[2] s = {3, 2}, int64[2] r = {6, 1}, int64[3] e = {4, 1, 1}"
    first = first.replace("Expand (x, s)", "Expand (x, one)")
    text = f"g (float[2, 3] x) => (float[n, m] y, z) <{stored}, int64[1] one = {{1}}> {{ y = {first}\n z = {second} }}"
    graph = Model(parse(f"{HEAD}\n{text}")).graph()
    edit = Editor(graph)
    before = [edit.shape(node.outputs[0]) for node in graph.nodes]
    types = [edit.dtype(node.outputs[0]) for node in graph.nodes]
    for node in graph.nodes:  # as it is, but told as edited: each is inferred alone
        edit.set_attribute(node, "spoilt", 1)
        edit.drop_attribute(node, "spoilt")
        edit.shape(node.outputs[0])
    assert [edit.shape(node.outputs[0]) for node in graph.nodes] == before
    assert [edit.dtype(node.outputs[0]) for node in graph.nodes] == types
    assert tuple(before[1] or ()) == shape
