import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphsurgery import graph as graphs
from graphsurgery.devices import session
from graphsurgery.errors import MissingTool, PassError
from graphsurgery.graph.model import Model
from graphsurgery.rewrite import (
    BATCH_NOTE,
    NORMALISATION_NOTE,
    Editor,
    GraphPass,
    ModelPass,
    NodePass,
    Refuse,
    apply_pass,
)
from graphsurgery.rewrite.apply import MAX_SWEEPS
from graphsurgery.testing import assert_rewrites, assert_same_outputs, assert_untouched, parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


@dataclass(frozen=True)
class DropIdentity(NodePass):
    name = "drop-identity"
    effect = "exact"
    matches = ("Identity",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        edit.bypass(node, node.inputs[0])


@dataclass(frozen=True)
class OnNodes(NodePass):
    """Whatever a test wants to do to a node."""

    name = "on-nodes"
    effect = "exact"
    do: Callable[[gs.Node, Editor], object] = field(default=lambda node, edit: None)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        self.do(node, edit)


@dataclass(frozen=True)
class OnGraph(GraphPass):
    name = "on-graph"
    effect = "exact"
    do: Callable[[gs.Graph, Editor], object] = field(default=lambda graph, edit: None)

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        self.do(graph, edit)


@dataclass(frozen=True)
class OnModel(ModelPass):
    name = "on-model"
    effect = "exact"
    do: Callable[[ModelProto, Editor], object] = field(default=lambda model, edit: model)

    def rewrite(self, model: ModelProto, edit: Editor) -> ModelProto:
        return self.do(model, edit)  # type: ignore[return-value]  # also what it must not return


def model(body: str, head: str = HEAD) -> Model:
    return Model(parse(f"{head}\n{body}"))


def text_of(changed: Model) -> str:
    return onnx.printer.to_text(changed.proto.graph)


RELU = "g (float[2] x) => (float[2] y) { a = Relu (x)  y = Neg (a) }"
IF = """
    g (bool c, float[2] x) => (float[2] y) {
        a = Relu (x)
        y = If (c) <
            then_branch = t () => (float[2] p) { d = Identity (a)  p = Exp (d) },
            else_branch = e () => (float[2] q) { d2 = Neg (x)  q = Identity (d2) }
        >
    }"""


def tensor(graph: gs.Graph, name: str) -> gs.Tensor:
    nodes = list(graphs.walk_nodes(graph))
    return next(t for n in nodes for t in (*n.outputs, *n.inputs) if t.name == name)


# --- running a pass -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [OnNodes, OnGraph])
def test_a_pass_that_fails_is_named(kind: type[OnNodes] | type[OnGraph]) -> None:
    def fail(thing: object, edit: Editor) -> None:
        raise KeyError("axes\nand more")

    with pytest.raises(PassError, match=r"pass 'on-(nodes|graph)': it fails.*KeyError") as caught:
        apply_pass(kind(do=fail), model(RELU))
    assert isinstance(caught.value.__cause__, KeyError)
    assert "\n" not in str(caught.value)


def test_a_node_pass_that_fails_names_the_node() -> None:
    def fail(node: gs.Node, edit: Editor) -> None:
        if node.op == "Neg":
            raise IndexError("list index out of range")

    with pytest.raises(PassError, match=r"on node 'y' \(Neg\): IndexError: list index"):
        apply_pass(OnNodes(do=fail), model(RELU))


def test_what_a_pass_raises_on_purpose_comes_through() -> None:
    def refuse(graph: gs.Graph, edit: Editor) -> None:
        raise edit.fail("no")

    def need(graph: gs.Graph, edit: Editor) -> None:
        raise MissingTool("get it")

    with pytest.raises(PassError, match=r"^pass 'on-graph': no$"):
        apply_pass(OnGraph(do=refuse), model(RELU))
    with pytest.raises(MissingTool, match=r"^get it$"):
        apply_pass(OnGraph(do=need), model(RELU))


def test_a_pass_that_leaves_a_cycle_is_named() -> None:
    def knot(graph: gs.Graph, edit: Editor) -> None:
        graphs.set_inputs(graph.nodes[0], [graph.nodes[1].outputs[0]])

    with pytest.raises(PassError, match=r"pass 'on-graph': it leaves a broken graph: .*cycle"):
        apply_pass(OnGraph(do=knot), model(RELU))


@pytest.mark.parametrize("result", [None, b"", "text"])
def test_a_model_pass_that_returns_no_model_is_named(result: object) -> None:
    with pytest.raises(PassError, match="'on-model': it returns"):
        apply_pass(OnModel(do=lambda proto, edit: result), model(RELU))


def test_a_pass_of_no_kind_is_refused() -> None:
    @dataclass(frozen=True)
    class Odd(DropIdentity.__mro__[2]):  # type: ignore[misc]  # Pass itself
        name = "odd"
        effect = "exact"

    with pytest.raises(PassError, match="'odd': it is no NodePass"):
        apply_pass(Odd(), model(RELU))


def spoil_node(node: gs.Node, edit: Editor) -> None:
    node.attrs["spoilt"] = 1
    for t in node.inputs:
        if isinstance(t, gs.Constant):
            t.values[:] = 0
    for body in graphs.subgraphs(node):
        body.name = "spoilt"


def spoil_graph(graph: gs.Graph, edit: Editor) -> None:
    edit.metadata["spoilt"] = "1"
    graph.import_domains[0].version = 3
    graph.inputs[0].shape = [7]
    for node in graphs.walk_nodes(graph):
        spoil_node(node, edit)
    graph.nodes.clear()


def spoil_model(proto: ModelProto, edit: Editor) -> ModelProto:
    proto.graph.node[0].op_type = "Spoilt"
    del proto.graph.initializer[:]
    return proto


@pytest.mark.parametrize("pass_", [OnNodes(do=spoil_node), OnGraph(do=spoil_graph), OnModel(do=spoil_model)])
def test_the_model_that_goes_in_is_not_changed(pass_: OnNodes | OnGraph | OnModel) -> None:
    weighted = IF.replace("=> (float[2] y) {", "=> (float[2] y) <float[2] w = {1, 2}> {")
    before = model(weighted.replace("Exp (d)", "Add (d, w)"))
    data = before.proto.SerializeToString(deterministic=True)
    after = apply_pass(pass_, before).model
    assert after.fingerprint != before.fingerprint
    assert before.proto.SerializeToString(deterministic=True) == data
    assert Model(before.proto).fingerprint == before.fingerprint


@pytest.mark.parametrize("pass_", [DropIdentity(), OnNodes(), OnGraph(), OnModel()])
def test_a_pass_with_nothing_to_do_changes_nothing(pass_: NodePass | GraphPass | ModelPass) -> None:
    before = model("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[1] spare = {0}> { y = Add (x, w) }")
    assert apply_pass(pass_, before).model.fingerprint == before.fingerprint


def test_sweeps_until_nothing_more_is_found() -> None:
    def merge(node: gs.Node, edit: Editor) -> None:
        source = graphs.producer(node.inputs[0]) if node.inputs else None
        if node.op == "Neg" and source is not None and source.op == "Neg":
            edit.bypass(node, edit.emit("Relu", [source.inputs[0]], hint="r"))

    chain = " ".join(f"t{i + 1} = Neg (t{i})" for i in range(9))
    after = apply_pass(OnNodes(do=merge), model(f"g (float[1] t0) => (float[1] y) {{ {chain} y = Exp (t9) }}")).model
    assert text_of(after).count("Neg") == 1


def test_a_node_may_travel_further_than_the_least_number_of_sweeps() -> None:
    """An Exp that swaps places with the Relu behind it moves by one node in each sweep."""

    def swap(node: gs.Node, edit: Editor) -> None:
        readers = graphs.consumers(node.outputs[0])
        if node.op == "Exp" and len(readers) == 1 and readers[0].op == "Relu":
            relu = edit.emit("Relu", [node.inputs[0]], hint="r")
            edit.replace(readers[0], "Exp", [relu])

    length = MAX_SWEEPS + 20
    chain = " ".join(f"t{i + 1} = {'Relu' if i else 'Exp'} (t{i})" for i in range(length))
    before = model(f"g (float[1] t0) => (float[1] y) {{ {chain} y = Neg (t{length}) }}")
    after = apply_pass(OnNodes(do=swap), before).model
    assert [n.op_type for n in after.proto.graph.node[-2:]] == ["Exp", "Neg"]


def test_a_pass_that_undoes_itself_is_stopped() -> None:
    def flip(node: gs.Node, edit: Editor) -> None:
        if node.op in ("Relu", "Abs"):
            edit.replace(node, "Abs" if node.op == "Relu" else "Relu", node.inputs)

    with pytest.raises(PassError, match="pass 'on-nodes': it still rewrites after"):
        apply_pass(OnNodes(do=flip), model(RELU))


def test_a_pass_that_doubles_its_own_matches_is_stopped_in_time() -> None:
    def double(node: gs.Node, edit: Editor) -> None:
        if node.op == "Relu":
            edit.replace(node, "Relu", [edit.emit("Relu", node.inputs, hint="r")])

    begin = time.perf_counter()
    with pytest.raises(PassError, match="its result matches itself"):
        apply_pass(OnNodes(do=double), model(RELU))
    assert time.perf_counter() - begin < 10


def test_a_refusal_is_noted_once_though_the_graph_is_swept_twice() -> None:
    def look(node: gs.Node, edit: Editor) -> None:
        if node.op == "Neg":
            edit.skip(node, "a Neg")
        elif node.op == "Relu":
            edit.replace(node, "Abs", node.inputs)

    applied = apply_pass(OnNodes(do=look), model(RELU))
    assert [(skip.node, skip.reason) for skip in applied.skips] == [("y", "a Neg")]


def test_making_a_constant_before_refusing_is_no_edit() -> None:
    def look(node: gs.Node, edit: Editor) -> None:
        edit.constant("zero", [0.0])
        edit.skip(node, "no")

    assert len(apply_pass(OnNodes(do=look), model(RELU)).skips) == 2


def test_writing_what_is_there_already_is_no_edit() -> None:
    def same(node: gs.Node, edit: Editor) -> None:
        edit.set_input(node, 0, node.inputs[0])
        edit.set_attribute(node, "k", [1, 2])
        edit.set_attribute(node, "s", "text")

    before = apply_pass(OnNodes(do=same), model(RELU)).model
    assert apply_pass(OnNodes(do=same), before).model.fingerprint == before.fingerprint


def test_a_pass_runs_on_a_model_with_functions() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "my": 1]>
        g (float[2] x) => (float[2] y) { a = Identity (x)  y = my.Twice (a) }
        <domain: "my", opset_import: ["": 17]>
        Twice (a) => (b) { k = Identity (a)  b = Add (k, k) }"""
    after = apply_pass(DropIdentity(), Model(parse(text))).model
    assert [n.op_type for n in after.proto.graph.node] == ["Twice"]
    assert after.proto.functions == parse(text).functions
    assert_same_outputs(parse(text), after.proto)


def test_unused_nodes_go_and_the_order_is_right_after_a_pass() -> None:
    def insert(graph: gs.Graph, edit: Editor) -> None:
        edit.set_input(graph.nodes[1], 0, edit.emit("Abs", [graph.inputs[0]], hint="new"))

    after = apply_pass(OnGraph(do=insert), model(RELU)).model
    assert [n.op_type for n in after.proto.graph.node] == ["Abs", "Neg"]


def test_the_nodes_that_passes_worked_on_are_gone_without_the_garbage_collector() -> None:
    def nodes() -> int:
        return sum(isinstance(thing, gs.Node) for thing in gc.get_objects())

    def replace_one(graph: gs.Graph, edit: Editor) -> None:
        edit.set_input(graph.nodes[2], 0, edit.emit("Abs", [graph.inputs[0]], hint="new"))

    chain = Model(parse(f"{HEAD} g (float[2] x) => (float[2] y) {{ a = Neg (x) b = Relu (a) y = Neg (b) }}"))
    gc.collect()
    gc.disable()
    try:
        before = nodes()
        assert apply_pass(OnGraph(do=replace_one), chain).model.nodes == 2
        assert nodes() == before
    finally:
        gc.enable()


# --- notes --------------------------------------------------------------------------------------------------------


def note(edit: Editor) -> None:
    edit.metadata[NORMALISATION_NOTE] = "{}"


@pytest.mark.parametrize(
    "pass_",
    [
        OnNodes(do=lambda node, edit: note(edit)),
        OnGraph(do=lambda graph, edit: note(edit)),
        OnModel(do=lambda proto, edit: note(edit) or proto),
    ],
)
def test_a_note_is_left_and_survives_every_kind_of_pass(pass_: OnNodes | OnGraph | OnModel) -> None:
    def forget(proto: ModelProto, edit: Editor) -> ModelProto:
        del proto.metadata_props[:]
        return proto

    before = model(RELU)
    helper.set_model_props(before.proto, {"author": "me", BATCH_NOTE: "[]"})
    after = apply_pass(pass_, before).model
    for other in (DropIdentity(), OnGraph(), OnModel(do=forget)):
        after = apply_pass(other, after).model
    notes = {entry.key: entry.value for entry in after.proto.metadata_props}
    assert notes == {BATCH_NOTE: "[]", NORMALISATION_NOTE: "{}"}  # what is not ours a tool may drop


def test_a_node_keeps_its_own_notes_when_it_is_replaced() -> None:
    before = model(RELU)
    before.proto.graph.node[0].metadata_props.add(key="scope", value="backbone")
    before.proto.graph.node[0].name = "relu"

    def replace(node: gs.Node, edit: Editor) -> None:
        if node.op == "Relu":
            edit.replace(node, "Abs", node.inputs)

    node = apply_pass(OnNodes(do=replace), before).model.proto.graph.node[0]
    assert (node.op_type, node.name, node.metadata_props[0].value) == ("Abs", "relu", "backbone")
    assert list(node.input) == ["x"]


# --- bypass -------------------------------------------------------------------------------------------------------


def test_bypasses_a_node_in_the_middle() -> None:
    assert_rewrites(
        DropIdentity(),
        f"{HEAD} g (float[2] x) => (float[2] y) {{ a = Relu (x)  b = Identity (a)  y = Add (b, b) }}",
        f"{HEAD} g (float[2] x) => (float[2] y) {{ a = Relu (x)  y = Add (a, a) }}",
    )


def test_a_bypassed_graph_output_keeps_its_name() -> None:
    assert_rewrites(
        DropIdentity(),
        f"{HEAD} g (float[2] x) => (float[2] y, float[2] z) {{ a = Relu (x)  y = Identity (a)  z = Neg (a) }}",
        f"{HEAD} g (float[2] x) => (float[2] y, float[2] z) {{ y = Relu (x)  z = Neg (y) }}",
    )


def test_a_bypassed_graph_output_that_comes_from_the_second_output_of_a_node_keeps_its_name() -> None:
    assert_rewrites(
        DropIdentity(),
        f"{HEAD} g (float[4] x) => (float[2] y, float[2] z) {{ z, a = Split <axis = 0> (x)  y = Identity (a) }}",
        f"{HEAD} g (float[4] x) => (float[2] y, float[2] z) {{ z, y = Split <axis = 0> (x) }}",
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("(float[2] x) => (float[2] y) { y = Identity (x) }", "not written in the same graph"),
        ("(float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Identity (w) }", "not written in the same graph"),
        ("(float[2] x) => (float[2] a, float[2] y) { a = Relu (x)  y = Identity (a) }", "both graph outputs"),
    ],
)
def test_leaves_a_graph_output_alone_that_can_not_be_written_otherwise(body: str, reason: str) -> None:
    assert_untouched(DropIdentity(), f"{HEAD} g {body}", reason)


def test_leaves_a_node_alone_whose_other_output_is_read() -> None:
    def drop(node: gs.Node, edit: Editor) -> None:
        if node.op == "Dropout":
            edit.bypass(node, node.inputs[0])

    read = f"{HEAD} g (float[2] x) => (float[2] y, bool[2] m) {{ a, m = Dropout (x)  y = Neg (a) }}"
    assert_untouched(OnNodes(do=drop), read, "another of its outputs is read")
    assert_rewrites(
        OnNodes(do=drop),
        f"{HEAD} g (float[2] x) => (float[2] y) {{ a, m = Dropout (x)  y = Neg (a) }}",
        f"{HEAD} g (float[2] x) => (float[2] y) {{ y = Neg (x) }}",
    )


def test_bypasses_in_bodies_and_what_bodies_read() -> None:
    assert_rewrites(
        DropIdentity(),
        f"""{HEAD}
        g (bool c, float[2] x) => (float[2] y) {{
            r = Relu (x)
            a = Identity (r)
            y = If (c) <
                then_branch = t () => (float[2] p) {{ d = Identity (a)  p = Exp (d) }},
                else_branch = e () => (float[2] q) {{ d2 = Neg (a)  q = Identity (d2) }}
            >
        }}""",
        f"""{HEAD}
        g (bool c, float[2] x) => (float[2] y) {{
            r = Relu (x)
            y = If (c) <
                then_branch = t () => (float[2] p) {{ p = Exp (r) }},
                else_branch = e () => (float[2] q) {{ q = Neg (r) }}
            >
        }}""",
        {"c": np.array(False), "x": np.array([1, -2], np.float32)},
    )


def test_a_bypassed_graph_output_is_read_under_its_name_inside_bodies() -> None:
    assert_rewrites(
        DropIdentity(),
        f"""{HEAD}
        g (bool c, float[2] x) => (float[2] y, float[2] z) {{
            a = Relu (x)
            z = Identity (a)
            y = If (c) <
                then_branch = t () => (float[2] p) {{ p = Exp (a) }},
                else_branch = e () => (float[2] q) {{ q = Neg (z) }}
            >
        }}""",
        f"""{HEAD}
        g (bool c, float[2] x) => (float[2] y, float[2] z) {{
            z = Relu (x)
            y = If (c) <
                then_branch = t () => (float[2] p) {{ p = Exp (z) }},
                else_branch = e () => (float[2] q) {{ q = Neg (z) }}
            >
        }}""",
    )


def test_leaves_a_body_alone_that_hands_out_an_outer_tensor() -> None:
    """Without the Identity the body would return what it does not write, which ONNX Runtime refuses."""
    text = f"""{HEAD}
        g (bool c, float[2] x) => (float[2] y) {{
            a = Relu (x)
            y = If (c) <
                then_branch = t () => (float[2] p) {{ p = Identity (a) }},
                else_branch = e () => (float[2] q) {{ q = Identity (x) }}
            >
        }}"""
    assert_untouched(DropIdentity(), text, "not written in the same graph")

    def from_outside(graph: gs.Graph, edit: Editor) -> None:
        for node in list(graphs.walk_nodes(graph)):
            if node.op == "Identity":
                edit.bypass(node, node.inputs[0])

    assert_untouched(OnGraph(do=from_outside), text, "not written in the same graph")


def test_a_graph_pass_bypasses_a_body_output_without_renaming_it() -> None:
    def from_outside(graph: gs.Graph, edit: Editor) -> None:
        edit.bypass(tensor(graph, "q").inputs[0], tensor(graph, "d2"))

    after = apply_pass(OnGraph(do=from_outside), model(IF)).model
    assert "q = Neg (x)" in text_of(after)
    assert_same_outputs(model(IF).proto, after.proto, {"c": np.array(False), "x": np.ones(2, np.float32)})


def test_bypassing_thousands_of_nodes_takes_seconds() -> None:
    length = 5000
    nodes = [helper.make_node("Identity" if i % 2 else "Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(length)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("t0", f"t{length}")]
    proto = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]))
    begin = time.perf_counter()
    assert apply_pass(DropIdentity(), Model(proto)).model.nodes == length // 2
    assert time.perf_counter() - begin < 10


# --- what the editor makes ----------------------------------------------------------------------------------------


def test_new_names_are_nobodys() -> None:
    text = """g (bool c, float[2] x) => (float[2] y) <float[1] spare = {0}> {
        y = If (c) <
            then_branch = t () => (float[2] p) <float[2] v = {1, 2}> { inner = Add (x, v)  p = Neg (inner) },
            else_branch = e () => (float[2] q) { q = Identity (x) }
        > }"""
    before = model(text)
    before.proto.graph.node[0].name = "named"
    before.proto.graph.value_info.append(helper.make_tensor_value_info("stale", TensorProto.FLOAT, [3]))
    edit = Editor(before.graph())
    taken = ["c", "x", "y", "spare", "p", "v", "inner", "q", "named", "stale"]
    assert [edit.fresh(name) for name in taken] == [f"{name}_2" for name in taken]
    assert [edit.fresh("new"), edit.fresh("new"), edit.fresh("new_2"), edit.fresh("new")] == [
        "new",
        "new_2",
        "new_2_2",
        "new_3",
    ]
    assert edit.fresh("")


def test_many_new_names_of_one_hint_are_made_fast() -> None:
    edit = Editor(model(RELU).graph())
    begin = time.perf_counter()
    assert len({edit.fresh("a") for _ in range(20_000)}) == 20_000
    assert time.perf_counter() - begin < 2


def test_a_new_constant_does_not_take_the_values_of_an_unused_one_of_its_name() -> None:
    def add(graph: gs.Graph, edit: Editor) -> None:
        edit.replace(graph.nodes[0], "Add", [graph.inputs[0], edit.constant("one", [1.0, 1.0])])

    before = model("g (float[2] x) => (float[2] y) <float[2] one = {7, 7}> { y = Neg (x) }")
    after = apply_pass(OnGraph(do=add), before).model.proto
    assert session.run(after, {"x": np.zeros(2, np.float32)})["y"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("values", "dtype", "shape"),
    [
        ([1, 2], np.int64, (2,)),
        ([1.5], np.float32, (1,)),
        ([], np.int64, (0,)),
        (2.0, np.float32, ()),
        (np.float64(2), np.float64, ()),
        (np.array(3.0), np.float64, ()),
        (np.ones((3, 2), np.int8).T, np.int8, (2, 3)),
    ],
)
def test_a_new_constant_has_the_type_that_onnx_wants(values: np.ndarray, dtype: type, shape: tuple[int, ...]) -> None:
    made = Editor(model(RELU).graph()).constant("k", values)
    assert (made.values.dtype, made.values.shape) == (dtype, shape)


def test_emits_a_node_with_several_outputs() -> None:
    def split(graph: gs.Graph, edit: Editor) -> None:
        first = edit.emit("Split", [graph.inputs[0]], {"axis": 0}, hint="s", outputs=2)
        parts = list(graphs.producer(first).outputs)
        assert parts[0] is first
        edit.replace(graph.nodes[0], "Concat", parts[::-1], {"axis": 0})

    before = model("g (float[2] x) => (float[2] y) { y = Neg (x) }")
    after = apply_pass(OnGraph(do=split), before).model.proto
    onnx.checker.check_model(after, full_check=True)
    assert session.run(after, {"x": np.array([1, 2], np.float32)})["y"].tolist() == [2, 1]


def test_set_input_fills_in_what_is_omitted_before_it() -> None:
    def clip(graph: gs.Graph, edit: Editor) -> None:
        edit.set_input(graph.nodes[0], 2, edit.constant("limit", np.float32(1)))

    before = model("g (float[2] x) => (float[2] y) { y = Clip (x) }")
    after = apply_pass(OnGraph(do=clip), before).model.proto
    assert list(after.graph.node[0].input) == ["x", "", "limit"]


def test_the_value_of_a_constant_node_can_be_set_though_tensors_without_names_look_equal() -> None:
    def zero(node: gs.Node, edit: Editor) -> None:
        if node.op == "Constant" and graphs.constant(node.outputs[0]).any():
            edit.set_attribute(node, "value", gs.Constant("", np.zeros(2, np.float32)))

    before = model("g (float[2] x) => (float[2] y) { k = Constant <value = float[2] {3, 4}> ()  y = Add (x, k) }")
    after = apply_pass(OnNodes(do=zero), before).model.proto
    assert numpy_helper.to_array(after.graph.node[0].attribute[0].t).tolist() == [0, 0]


# --- evaluate -----------------------------------------------------------------------------------------------------

MIXED = """
    g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
        k = Constant <value = float[2] {3, 4}> ()
        s = Add (w, k)
        a = Mul (x, s)
        b = Neg (a)
        y = If (c) <
            then_branch = t () => (float[2] p) { m = Mul (w, w)  p = Add (b, m) },
            else_branch = e () => (float[2] q) { q = Identity (b) }
        >
    }"""


def test_evaluates_from_constants() -> None:
    graph = model(MIXED).graph()
    edit = Editor(graph)
    s, w, k = (tensor(graph, name) for name in "swk")
    values = edit.evaluate([s, w, s, k])
    assert [v.tolist() for v in values] == [[4, 6], [1, 2], [4, 6], [3, 4]]


def test_evaluates_from_given_inputs_whatever_writes_them() -> None:
    graph = model(MIXED).graph()
    edit = Editor(graph)
    (y,) = edit.evaluate([tensor(graph, "y")], {"a": np.ones(2, np.float32), "c": np.array(True)})
    assert y.tolist() == [0, 3]
    (a,) = edit.evaluate([tensor(graph, "a")], {"a": np.ones(2, np.float32)})
    assert a.tolist() == [1, 1]
    (s,) = edit.evaluate([tensor(graph, "s")], {"w": np.zeros(2, np.float32)})
    assert s.tolist() == [3, 4]


def test_evaluates_inside_a_body() -> None:
    graph = model(MIXED).graph()
    edit = Editor(graph)
    edit.graph = graph.nodes[-1].attrs["then_branch"]
    assert edit.evaluate([tensor(graph, "m")])[0].tolist() == [1, 4]
    (p,) = edit.evaluate([tensor(graph, "p")], {"b": np.ones(2, np.float32)})
    assert p.tolist() == [2, 5]


@pytest.mark.parametrize("body", [False, True])
def test_refuses_to_evaluate_what_needs_more(body: bool) -> None:
    graph = model(MIXED).graph()
    edit = Editor(graph, "p")
    if body:
        edit.graph = graph.nodes[-1].attrs["then_branch"]
    with pytest.raises(PassError, match="pass 'p': can't compute 'p'" if body else "pass 'p': can't compute 'b'"):
        edit.evaluate([tensor(graph, "p" if body else "b")])


def test_refuses_to_evaluate_an_initializer_that_a_caller_may_override() -> None:
    proto = model(MIXED).proto
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))
    graph = Model(proto).graph()
    with pytest.raises(PassError, match="can't compute 's'"):
        Editor(graph).evaluate([tensor(graph, "s")])


def test_evaluates_a_function_of_the_model() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "my": 1]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { a = my.Twice (w)  y = Add (x, a) }
        <domain: "my", opset_import: ["": 17]>
        Twice (a) => (b) { b = Add (a, a) }"""
    graph = Model(parse(text)).graph()
    assert Editor(graph).evaluate([tensor(graph, "a")])[0].tolist() == [2, 4]


@pytest.fixture
def external(tmp_path: Path) -> Model:
    text = f"""{HEAD}
        g (bool c, float[6] x) => (float[n, m] y) <int64[2] s = {{2, 3}}> {{
            k = Constant <value = float[2] {{3, 4}}> ()
            j = Neg (k)
            y = Reshape (x, s)
        }}"""
    proto = parse(text)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([2, 3], np.int64), "s"))
    value = proto.graph.node[0].attribute[0].t
    value.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(value)))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, size_threshold=0, convert_attribute=True, location="m.bin")
    assert {t.data_location for t in (value, proto.graph.initializer[0])} == {TensorProto.EXTERNAL}
    return Model.load(path)


def test_evaluates_and_infers_from_external_data(external: Model) -> None:
    graph = external.graph()
    edit = Editor(graph, folder=external.folder)
    assert edit.evaluate([tensor(graph, "j")])[0].tolist() == [-3, -4]
    edit.infer_shapes()
    assert graph.outputs[0].shape == [2, 3]
    assert Model.of(graph, external.folder).proto.graph.initializer[0].data_location == TensorProto.EXTERNAL


def test_external_data_that_is_gone_is_a_pass_error(external: Model) -> None:
    assert external.folder is not None
    (external.folder / "m.bin").unlink()
    graph = external.graph()
    with pytest.raises(PassError, match="can't"):
        Editor(graph, folder=external.folder).evaluate([tensor(graph, "j")])


# --- shapes -------------------------------------------------------------------------------------------------------


def test_infers_shapes_also_in_bodies_and_without_looking_at_weights() -> None:
    text = f"""{HEAD}
        g (bool c, float[1, 3, 8, 8] x) => (float y) {{
            a = Conv <pads = [1, 1, 1, 1]> (x, w)
            y = If (c) <
                then_branch = t () => (float p) {{ d = Conv (a, v)  p = ReduceMax <keepdims = 0> (d) }},
                else_branch = e () => (float q) {{ q = ReduceMax <keepdims = 0> (a) }}
            >
        }}"""
    proto = parse(text)
    weights = np.random.default_rng(0).standard_normal((64, 3, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((32, 64, 3, 3), np.float32), "v"))
    graph = Model(proto).graph()
    before = Model.of(graph)
    Editor(graph).infer_shapes()
    assert tensor(graph, "a").shape == [1, 64, 8, 8]
    assert tensor(graph, "d").shape == [1, 32, 6, 6]
    assert tensor(graph, "d").dtype == np.float32
    after = Model.of(graph).proto
    assert list(after.graph.initializer) == list(before.proto.graph.initializer)
    assert [i.name for i in after.graph.input] == ["c", "x"]
    onnx.checker.check_model(after, full_check=True)


def test_infers_a_shape_out_of_a_small_initializer() -> None:
    graph = model("g (float[6] x) => (float[n, m] y) <int64[2] s = {2, 3}> { y = Reshape (x, s) }").graph()
    Editor(graph).infer_shapes()
    assert graph.outputs[0].shape == [2, 3]


def test_shapes_that_only_the_file_knows_stay() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "my": 1]>
        g (float[2] x) => (float[2] y) <float[2, 3] a> { a = my.Op (x)  y = my.Op (a) }"""
    graph = Model(parse(text)).graph()
    Editor(graph).infer_shapes()
    assert tensor(graph, "a").shape == [2, 3]


def test_shape_inference_that_fails_is_a_pass_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(proto: ModelProto, data_prop: bool) -> ModelProto:
        raise onnx.shape_inference.InferenceError("first line\nsecond line")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", fail)
    with pytest.raises(PassError, match=r"^pass 'p': shape inference: first line$"):
        Editor(model(RELU).graph(), "p").infer_shapes()


@pytest.mark.parametrize(
    ("matches", "seen"),
    [
        (("Neg",), ["y"]),
        (("my.Neg",), ["a"]),
        (("Neg", "my.Neg"), ["a", "y"]),
        (("ai.onnx.Neg",), ["y"]),
        (("Exp",), []),
        ((), ["a", "b", "y"]),
    ],
)
def test_a_node_pass_sees_what_it_matches(matches: tuple[str, ...], seen: list[str]) -> None:
    found = []

    @dataclass(frozen=True)
    class Looks(OnNodes):
        pass

    Looks.matches = matches
    text = "g (float[2] x) => (float[2] y) { a = my.Neg (x)  b = Relu (a)  y = Neg (b) }"
    head = '<ir_version: 8, opset_import: ["": 17, "my": 1]>'
    apply_pass(Looks(do=lambda node, edit: found.append(node.outputs[0].name)), model(text, head))
    assert found == seen


def deep_down(depth: int, node: gs.Node | None = None) -> None:
    if depth == 0:
        raise Refuse("far too deep", node)
    deep_down(depth - 1, node)


def test_a_refusal_from_any_depth_is_noted_and_the_next_node_is_looked_at() -> None:
    applied = apply_pass(OnNodes(do=lambda node, edit: deep_down(3)), model(RELU))
    assert [(skip.node, skip.reason) for skip in applied.skips] == [("a", "far too deep"), ("y", "far too deep")]


def test_a_refusal_may_be_about_another_node() -> None:
    def do(node: gs.Node, edit: Editor) -> None:
        if node.op == "Neg":
            deep_down(1, graphs.producer(node.inputs[0]))

    assert [skip.node for skip in apply_pass(OnNodes(do=do), model(RELU)).skips] == ["a"]


@pytest.mark.parametrize(
    "pass_",
    [OnGraph(do=lambda graph, edit: deep_down(1)), OnModel(do=lambda model, edit: deep_down(1))],
    ids=["graph", "model"],
)
def test_a_pass_on_the_whole_refuses_the_whole(pass_: GraphPass | ModelPass) -> None:
    before = model(RELU)
    applied = apply_pass(pass_, before)
    assert [(skip.node, skip.reason) for skip in applied.skips] == [("", "far too deep")]
    assert applied.model.fingerprint == before.fingerprint


def test_a_refusal_behind_an_edit_is_a_fault_of_the_pass() -> None:
    def do(node: gs.Node, edit: Editor) -> None:
        if node.op == "Neg":
            edit.replace(node, "Exp", node.inputs)
            deep_down(1)

    with pytest.raises(PassError, match=r"refuses on node 'y' \(Neg\) after it has edited the graph: far too deep"):
        apply_pass(OnNodes(do=do), model(RELU))
