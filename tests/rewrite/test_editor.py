"""What a pass asks of the Editor, and what it does through it; how passes run is in test_rewrite.py."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphsurgery.errors import PassError
from graphsurgery.graph.model import Model
from graphsurgery.rewrite import GraphPass, NodePass, Pass, apply_pass, apply_passes
from graphsurgery.rewrite.editor import Editor
from graphsurgery.testing import assert_same_outputs, parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
POOL = (
    "g (float[1, 2, 4, 4] x) => (float[1, 2, 2, 2] y) { y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) }"
)


def view(text: str) -> tuple[gs.Graph, Editor]:
    graph = Model(parse(f"{HEAD}\n{text}")).graph()
    return graph, Editor(graph)


def test_a_shape_that_is_not_written_down_is_inferred() -> None:
    graph, edit = view(
        "g (float[1, 3, 8, h] x) => (float[a, b, c, d] y) { t = Transpose <perm = [0, 2, 3, 1]> (x)  y = Relu (t) }"
    )
    inner = graph.nodes[0].outputs[0]
    assert inner.shape is None
    assert edit.shape(inner) == [1, 8, "h", 3]
    assert edit.static_shape(inner) is None
    assert edit.dtype(inner) == np.float32
    assert inner.shape is None, "asking must not change the graph, or its fingerprint would tell of an edit"


def test_what_nothing_tells_is_not_known() -> None:
    graph, edit = view("g (float[2] x) => (y) { y = NonZero (x) }")
    out = graph.nodes[0].outputs[0]
    assert edit.static_shape(out) is None
    new = gs.Variable("new")
    assert (edit.shape(new), edit.dtype(new)) == (None, None)


def test_shapes_are_known_also_after_a_node_was_cut_loose() -> None:
    graph, edit = view("g (float[2, 3] x) => (float[a, b] y) { r = Relu (x)  t = Transpose (r)  y = Neg (t) }")
    relu, transpose, _ = graph.nodes
    edit.bypass(relu, graph.inputs[0])
    assert edit.shape(transpose.outputs[0]) == [3, 2]


def test_where_inference_fails_it_is_said_and_nothing_is_known() -> None:
    graph, edit = view("g (float[2, 3] x) => (float[a, b] y) { t = Transpose ()  y = Relu (t) }")
    assert edit.shape(graph.nodes[0].outputs[0]) is None
    assert "shape inference" in edit.skips[0].reason


def test_a_dimension_below_zero_is_not_known() -> None:
    graph, edit = view("g (float[2, 3] x) => (float[2, 3] y) { y = Relu (x) }")
    graph.inputs[0].shape = [-1, 3]
    assert edit.shape(graph.inputs[0]) == [None, 3]
    assert edit.static_shape(graph.inputs[0]) is None


def test_the_output_of_a_body_is_an_output() -> None:
    graph, edit = view("""
        g (bool c, float[2] x) => (float[2] y) {
            a = Relu (x)
            y = If (c) <
                then_branch = t () => (float[2] p) { p = Exp (a) },
                else_branch = e () => (float[2] q) { q = Neg (a) }
            >
        }""")
    relu, choice = graph.nodes
    body = choice.attrs["then_branch"]
    assert not edit.is_output(relu.outputs[0])
    assert edit.is_output(choice.outputs[0])
    assert edit.is_output(body.nodes[0].outputs[0])


class Once(GraphPass):
    def __init__(self, do: object) -> None:
        object.__setattr__(self, "do", do)
        type(self).name, type(self).effect = "once", "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        self.do(graph, edit)  # type: ignore[attr-defined]


def test_replacing_drops_the_outputs_at_the_end_that_nothing_reads() -> None:
    def average(graph: gs.Graph, edit: Editor) -> None:
        edit.replace(graph.nodes[0], "AveragePool", graph.nodes[0].inputs, {"kernel_shape": [2, 2], "strides": [2, 2]})

    after = apply_pass(Once(average), Model(parse(f"{HEAD}\n{POOL}"))).model
    assert list(after.proto.graph.node[0].output) == ["y"]
    after.check("the result")


def test_what_replaces_the_call_of_a_function_has_no_overload() -> None:
    text = """<ir_version: 10, opset_import: ["": 17, "my": 1]>
        g (float[2] x) => (float[2] y) { a = my.F (x)  y = my.F (a) }
        <domain: "my", opset_import: ["": 17]> F (a) => (b) { b = Neg (a) }"""
    proto = parse(text)
    for named in (proto.functions[0], *proto.graph.node):
        named.overload = "second"

    def replace(graph: gs.Graph, edit: Editor) -> None:
        edit.replace(graph.nodes[0], "Abs", graph.nodes[0].inputs)
        edit.set_attribute(graph.nodes[1], "hint", 1)

    after = apply_pass(Once(replace), Model(proto)).model
    assert [node.overload for node in after.proto.graph.node] == ["", "second"]
    after.check("the result")


def test_a_new_node_can_take_over_what_another_one_writes() -> None:
    split = "g (float[4] x) => (float[2] a, float[2] b) <int64[2] n = {2, 2}> { a, b = Split <axis = 0> (x, n) }"
    before = Model(parse(f"{HEAD}\n{split}"))

    def slices(graph: gs.Graph, edit: Editor) -> None:
        (node,) = graph.nodes
        data = node.inputs[0]
        for index, out in enumerate(list(node.outputs)):
            bounds = [edit.constant("from", [2 * index]), edit.constant("to", [2 * index + 2])]
            assert edit.emit("Slice", [data, *bounds], hint=out.name, writes=out) is out
        edit.remove(node)

    after = apply_pass(Once(slices), before).model
    assert [node.op_type for node in after.proto.graph.node] == ["Slice", "Slice"]
    assert after.outputs == ["a", "b"]
    assert_same_outputs(before.proto, after.proto)


def test_dropping_an_attribute_that_is_not_there_is_no_edit() -> None:
    graph, edit = view(POOL)
    edit.drop_attribute(graph.nodes[0], "ceil_mode")
    assert edit.edits == 0
    edit.drop_attribute(graph.nodes[0], "strides")
    assert (edit.edits, list(graph.nodes[0].attrs)) == (1, ["kernel_shape"])


class Rename(NodePass):
    name = "rename"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        after = {"Relu": "Abs", "Abs": "Neg"}.get(node.op)
        if after is not None and node.op == self.wanted:
            edit.replace(node, after, node.inputs)
        elif node.op == "Neg":
            edit.skip(node, f"{self.wanted} looked")


class FromRelu(Rename):
    wanted = "Relu"


class FromAbs(Rename):
    wanted = "Abs"


def test_several_passes_on_one_view_give_what_they_give_one_by_one() -> None:
    before = Model(parse(f"{HEAD}\ng (float[2] x) => (float[2] y) {{ a = Relu (x)  y = Neg (a) }}"))
    passes: list[Pass] = [FromRelu(), FromAbs()]
    together = apply_passes(passes, before)
    alone = before
    for pass_ in passes:
        alone = apply_pass(pass_, alone).model
    assert together.model.fingerprint == alone.fingerprint
    assert [node.op_type for node in together.model.proto.graph.node] == ["Neg", "Neg"]
    assert {skip.reason for skip in together.skips} == {"Relu looked", "Abs looked"}
    assert apply_passes([], before).model is before


IF = """
    g (bool c, float[2] x) => (float[2] y) {
        a = Relu (x)
        b = If (c) <
            then_branch = t () => (float[2] p) { a2 = Abs (a)  p = Neg (a2) },
            else_branch = e () => (float[2] q) { q = Exp (a) }
        >
        y = Neg (b)
    }"""


def test_a_retyped_tensor_is_inferred_anew_with_all_behind_it() -> None:
    graph, edit = view("g (float[2, 3] x) => (y) { t = Transpose (x)  y = Relu (t) }")
    (x,), out = graph.inputs, graph.nodes[1].outputs[0]
    assert edit.shape(out) == [3, 2]
    edit.retype(x, shape=[2, 5])
    assert (x.shape, x.dtype, edit.shape(out)) == ([2, 5], np.float32, [5, 2])
    edit.retype(x, dtype=np.dtype(np.float16))
    assert (edit.dtype(out), edit.edits) == (np.float16, 2)
    edit.retype(x, dtype=np.dtype(np.float16), shape=(2, 5))
    assert edit.edits == 2, "it says that already"
    edit.retype(x, shape=None)
    assert edit.shape(x) is None


def test_readers_of_a_tensor_read_another_one_in_bodies_too() -> None:
    graph, edit = view(IF)
    relu = graph.nodes[0]
    edit.redirect(relu.outputs[0], graph.inputs[1])
    assert not relu.outputs[0].outputs
    assert [node.op for node in graph.inputs[1].outputs] == ["Relu", "Abs", "Exp"]
    edit.redirect(relu.outputs[0], graph.inputs[1])
    assert edit.edits == 1, "nothing reads it"


def test_what_a_node_takes_over_is_not_written_by_another_one_any_more() -> None:
    graph, edit = view("g (float[2] x) => (float[2] y) { a = Relu (x)  b = Abs (x)  y = Neg (b) }")
    relu, absolute, _ = graph.nodes
    b = absolute.outputs[0]
    assert edit.shape(b) == [2]
    edit.set_outputs(relu, [b])
    assert [node.op for node in b.inputs] == ["Relu"]
    assert [tensor.name for tensor in absolute.outputs] == [""]
    assert edit.shape(b) == [2]


def test_values_stand_where_a_node_wrote_them() -> None:
    def fold(graph: gs.Graph, edit: Editor) -> None:
        edit.fold(graph.nodes[0], [np.array([1, 2], np.float32), None])
        edit.fold(graph.nodes[1], [np.array([3, 4], np.float32)])

    before = Model(
        parse(f"""{HEAD}
        g (float[4] x) => (float[2] y, float[2] z) {{ a, b = Split <axis = 0> (x)  z = Abs (x)  y = Add (a, z) }}""")
    )
    after = apply_pass(Once(fold), before).model
    assert [node.op_type for node in after.proto.graph.node] == ["Add", "Constant"]
    assert [list(node.input) for node in after.proto.graph.node] == [["a", "z_2"], []]
    assert after.outputs == ["y", "z"]
    after.check("the result")


def test_a_body_takes_the_place_of_its_node() -> None:
    def inline(graph: gs.Graph, edit: Editor) -> None:
        edit.inline(graph.nodes[1], graph.nodes[1].attrs["then_branch"])
        assert not edit.is_output(graph.nodes[-1].outputs[0]), "what the branch gave out is inside now"

    after = apply_pass(Once(inline), Model(parse(f"{HEAD}\n{IF}"))).model
    assert [(node.op_type, *node.output) for node in after.proto.graph.node] == [
        *(("Relu", "a"), ("Abs", "a2"), ("Neg", "b"), ("Neg", "y")),
    ]
    after.check("the result")


def test_the_model_gets_another_interface() -> None:
    graph, edit = view("g (float[2] x) => (float[2] y) { a = Relu (x)  y = Neg (a) }")
    a = graph.nodes[0].outputs[0]
    edit.retype(a, dtype=np.dtype(np.float32), shape=[2])
    edit.set_interface(outputs=[a])
    assert edit.is_output(a)
    assert not edit.is_output(graph.nodes[1].outputs[0])
    assert [tensor.name for tensor in graph.inputs] == ["x"], "they stay where none are given"


def test_types_behind_a_node_are_written_anew_but_for_those_of_outputs() -> None:
    graph, edit = view("g (float[2, 3] x) => (float[a, b] y) { t = Transpose (x)  r = Relu (t)  y = Neg (r) }")
    transpose, relu, _ = graph.nodes
    edit.infer_shapes()
    graph.outputs[0].shape = ["a", "b"]
    edit.set_attribute(transpose, "perm", [0, 1])
    edit.infer_behind([transpose])
    assert [node.outputs[0].shape for node in (transpose, relu)] == [[2, 3], [2, 3]]
    assert graph.outputs[0].shape == ["a", "b"]


def test_a_node_between_two_ends_becomes_an_identity() -> None:
    graph, edit = view("g (float[2] x) => (float[2] y, float[2] a) { a = Relu (x)  y = Clip (a) }")
    clip, relu = graph.nodes[1], graph.nodes[0]
    assert edit.bypass(clip, clip.inputs[0])
    assert edit.bypass(relu, relu.inputs[0])
    assert [node.op for node in graph.nodes] == ["Identity", "Identity"]
    assert not edit.bypass(relu, relu.inputs[0]), "it is one already"
    assert "not written in the same graph" in edit.skips[0].reason


def test_the_outputs_of_bodies_that_are_gone_are_none() -> None:
    graph, edit = view(IF)
    branch = graph.nodes[1]
    inner = branch.attrs["else_branch"].outputs[0]
    assert edit.is_output(inner)
    edit.replace(branch, "Not", [graph.inputs[0]])
    assert not edit.is_output(inner)


def test_an_input_that_is_no_tensor_is_said_to_be_none() -> None:
    graph, edit = view("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    said = r"input 2 of Less is 0.5, which is no tensor: make one with edit.constant"
    with pytest.raises(PassError, match=said):
        edit.emit("Less", [graph.inputs[0], 0.5], hint="below")  # type: ignore[list-item]
    with pytest.raises(PassError, match=said):
        edit.replace(graph.nodes[0], "Less", [graph.inputs[0], 0.5])  # type: ignore[list-item]
    assert edit.edits == 0
