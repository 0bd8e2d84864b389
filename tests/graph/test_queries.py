import time
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx_graphsurgeon.util.misc import SynchronizedList

from graphsurgery import graph as graphs
from graphsurgery.devices import session
from graphsurgery.errors import ModelError, PassError
from graphsurgery.graph.model import Model
from graphsurgery.rewrite import Editor
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def view(text: str) -> gs.Graph:
    return Model(parse(f"{HEAD}\n{text}")).graph()


def node_of(graph: gs.Graph, output: str) -> gs.Node:
    return next(n for n in graphs.walk_nodes(graph) if any(t.name == output for t in n.outputs))


def tensor_of(graph: gs.Graph, name: str) -> gs.Tensor:
    nodes = list(graphs.walk_nodes(graph))
    return next(t for n in nodes for t in (*n.outputs, *n.inputs) if t.name == name)


def names(graph: gs.Graph) -> list[str]:
    return [node.outputs[0].name for node in graph.nodes]


def chain(length: int) -> gs.Graph:
    tensors = [gs.Variable(f"t{i}", np.float32, [1]) for i in range(length + 1)]
    nodes = [gs.Node("Relu", inputs=[tensors[i]], outputs=[tensors[i + 1]]) for i in range(length)]
    return gs.Graph(nodes=nodes[::-1], inputs=tensors[:1], outputs=tensors[-1:], opset=17)


IF = """
    g (bool c, float[2] x) => (float[2] y, float[2] z) {
        a = Relu (x)
        y = If (c) <
            then_branch = t () => (float[2] p) { d = Neg (a)  p = Exp (a) },
            else_branch = e () => (float[2] q) { q = Identity (x) }
        >
        z = Neg (x)
    }"""


# --- order --------------------------------------------------------------------------------------------------------


def test_sorts_a_long_chain_in_reverse_order_in_linear_time() -> None:
    graph = chain(20_000)
    begin = time.perf_counter()
    graphs.sort(graph)
    assert time.perf_counter() - begin < 5
    assert names(graph) == [f"t{i + 1}" for i in range(20_000)]


def test_sort_leaves_a_valid_order_alone() -> None:
    graph = view(
        """g (float[1] x) => (float[1] y) {
        c = Neg (x)  a = Relu (x)  d = Neg (c)  b = Relu (a)  y = Add (d, b) }"""
    )
    graphs.sort(graph)
    assert names(graph) == ["c", "a", "d", "b", "y"]


def test_sort_raises_on_a_cycle() -> None:
    a, b = gs.Variable("a", np.float32, [1]), gs.Variable("b", np.float32, [1])
    nodes = [gs.Node("Relu", "first", inputs=[a], outputs=[b]), gs.Node("Relu", "second", inputs=[b], outputs=[a])]
    with pytest.raises(ModelError, match="cycle"):
        graphs.sort(gs.Graph(nodes=nodes, outputs=[b]))


def test_sort_raises_on_a_node_that_reads_its_own_output() -> None:
    a = gs.Variable("a", np.float32, [1])
    with pytest.raises(ModelError, match=r"'self'.*cycle"):
        graphs.sort(gs.Graph(nodes=[gs.Node("Relu", "self", inputs=[a], outputs=[a])], outputs=[a]))


def test_sort_raises_on_a_body_that_reads_what_its_own_node_writes() -> None:
    graph = view(IF)
    node = node_of(graph, "y")
    node.attrs["else_branch"].outputs = [node.outputs[0]]
    with pytest.raises(ModelError, match="cycle"):
        graphs.sort(graph)


def test_sort_puts_an_if_behind_what_its_bodies_read() -> None:
    graph = view(IF)
    graph.nodes = graph.nodes[::-1]
    graphs.sort(graph)
    assert names(graph).index("a") < names(graph).index("y")


def test_sort_puts_a_loop_behind_what_a_nested_body_reads_or_returns() -> None:
    graph = view(
        """g (bool c, float[2] x) => (float[2] y) <int64 n = {2}> {
        a = Relu (x)
        b = Neg (x)
        y = Loop (n, c, x) <body = l (int64 i, bool k, float[2] s) => (bool k2, float[2] s2) {
            k2 = Identity (k)
            s2 = If (k) <
                then_branch = t () => (float[2] p) { p = Add (s, a) },
                else_branch = e () => (float[2] b) { }
            >
        }> }"""
    )
    assert [t is tensor_of(graph, "b") for t in node_of(graph, "s2").attrs["else_branch"].outputs] == [True]
    graph.nodes = graph.nodes[::-1]
    graphs.sort(graph)
    assert set(names(graph)[:2]) == {"a", "b"}
    assert names(graph)[2] == "y"


def test_sorts_inside_bodies_too() -> None:
    graph = view(
        """g (bool c, float[2] x) => (float[2] y) {
        y = If (c) <
            then_branch = t () => (float[2] p) { d = Neg (x)  p = Exp (d) },
            else_branch = e () => (float[2] q) { q = Identity (x) }
        > }"""
    )
    body = graph.nodes[0].attrs["then_branch"]
    body.nodes = body.nodes[::-1]
    graphs.sort(graph)
    assert names(body) == ["d", "p"]


# --- unused nodes -------------------------------------------------------------------------------------------------


def test_drop_unused_keeps_what_a_body_needs_and_drops_dead_nodes_in_it() -> None:
    graph = view(IF)
    graph.outputs = graph.outputs[:1]
    graphs.drop_unused(graph)
    assert names(graph) == ["a", "y"]
    assert names(graph.nodes[1].attrs["then_branch"]) == ["p"]
    assert [n.op for n in tensor_of(graph, "a").outputs] == ["Exp"]


def test_drop_unused_takes_a_dead_if_away_with_all_its_bodies_read() -> None:
    graph = view(IF)
    graph.outputs = graph.outputs[1:]
    graphs.drop_unused(graph)
    assert names(graph) == ["z"]
    assert [n.op for n in graph.inputs[1].outputs] == ["Neg"]
    assert not graph.inputs[0].outputs


def test_drop_unused_drops_a_long_dead_chain() -> None:
    graph = chain(20_000)
    graph.outputs = [graph.inputs[0]]
    graphs.drop_unused(graph)
    assert graph.nodes == []
    assert graph.inputs[0].outputs == []


def test_drop_unused_keeps_a_node_that_stands_behind_one_of_its_two_readers() -> None:
    graph = view("g (float[1] x) => (float[1] y) { a = Relu (x)  b = Neg (a)  y = Add (a, b)  c = Exp (a) }")
    relu, *others = graph.nodes
    graph.nodes = [others[0], relu, *others[1:]]
    assert not graphs.drop_unused(graph)
    assert names(graph) == ["b", "a", "y"]
    graphs.sort(graph)
    assert names(graph) == ["a", "b", "y"]
    assert graphs.drop_unused(graph)


def test_an_initializer_that_nothing_reads_any_more_is_not_exported() -> None:
    graph = view(
        """g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] v = {3, 4}> {
        y = Add (x, w)  z = Add (x, v) }"""
    )
    graphs.drop_unused(graph)
    assert [t.name for t in Model.of(graph).proto.graph.initializer] == ["w"]


# --- edges --------------------------------------------------------------------------------------------------------


def twins() -> tuple[gs.Graph, gs.Node, gs.Node]:
    """Two nodes that graphsurgeon calls equal."""
    x, y = gs.Variable("x", np.float32, [1]), gs.Variable("y", np.float32, [1])
    first = gs.Node("Add", inputs=[x, x], outputs=[y])
    second = gs.Node("Add", inputs=[x, x], outputs=[gs.Variable("y", np.float32, [1])])
    assert first == second
    return gs.Graph(nodes=[first, second], inputs=[x], outputs=[y], opset=17), first, second


def test_detach_takes_the_node_itself_and_not_its_twin() -> None:
    graph, first, second = twins()
    graphs.detach(second)
    assert [n is first for n in graph.inputs[0].outputs] == [True, True]
    assert second.inputs == []
    assert second.outputs == []
    assert graphs.producer(graph.outputs[0]) is first


def test_set_inputs_moves_a_node_that_reads_one_tensor_twice() -> None:
    graph, first, second = twins()
    x, z = graph.inputs[0], gs.Variable("z", np.float32, [1])
    graphs.set_inputs(second, [z, x])
    assert [n is second for n in z.outputs] == [True]
    assert [n is first for n in x.outputs] == [True, True, False]
    assert [t is w for t, w in zip(second.inputs, [z, x], strict=True)] == [True, True]


def test_set_inputs_and_outputs_take_the_nodes_own_lists() -> None:
    graph, first, _ = twins()
    graphs.set_inputs(first, first.inputs)
    graphs.set_outputs(first, first.outputs)
    assert [t.name for t in first.inputs] == ["x", "x"]
    assert [t.name for t in first.outputs] == ["y"]
    assert sum(n is first for n in graph.inputs[0].outputs) == 2


def test_a_tensor_is_no_output_of_a_graph_that_has_another_of_its_name() -> None:
    graph, _, second = twins()
    assert not graphs.is_graph_output(second.outputs[0], graph)


class Counted(SynchronizedList):  # type: ignore[misc]
    looks = 0

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("order", ["forward", "backward", "replaced one by one"])
def test_to_take_all_readers_from_a_tensor_looks_at_each_of_them_a_few_times(order: str) -> None:
    shared = gs.Variable("shared", np.float32, [1])
    object.__setattr__(shared, "outputs", Counted(shared, "inputs", []))
    nodes = [gs.Node("Relu", f"n{i}", inputs=[shared]) for i in range(6000)]
    shared.outputs.looks = 0
    if order == "backward":
        nodes.reverse()
    for node in nodes[:5000]:
        graphs.detach(node)
        if order == "replaced one by one":
            gs.Node("Neg", f"instead of {node.name}", inputs=[shared])
    left = {f"instead of {node.name}" for node in nodes[:5000]} if order == "replaced one by one" else set()
    assert sorted(node.name for node in shared.outputs) == sorted({node.name for node in nodes[5000:]} | left)
    assert shared.outputs.looks < 10 * 5000


def test_a_node_that_reads_one_tensor_of_many_readers_twice_is_taken_out_of_it_twice() -> None:
    shared = gs.Variable("shared", np.float32, [1])
    nodes = [gs.Node("Add", inputs=[shared, shared]) for _ in range(1000)]
    graphs.set_inputs(nodes[500], [shared, gs.Variable("other")])
    graphs.detach(nodes[999])
    counts = Counter(id(node) for node in shared.outputs)
    assert [counts[id(node)] for node in nodes] == [2] * 500 + [1] + [2] * 498 + [0]


# --- constants ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("value = float[2] {1, 2}", np.array([1, 2], np.float32)),
        ("value = int8 {-3}", np.array(-3, np.int8)),
        ("value_float = 1.5", np.array(1.5, np.float32)),
        ("value_floats = [1.5, 2.5]", np.array([1.5, 2.5], np.float32)),
        ("value_int = 7", np.array(7, np.int64)),
        ("value_ints = [7, 8]", np.array([7, 8], np.int64)),
    ],
)
def test_the_value_of_a_constant_node_is_known(attribute: str, expected: np.ndarray) -> None:
    graph = view(f"g (float[1] x) => (float[1] y) {{ c = Constant <{attribute}> ()  y = Identity (c) }}")
    value = graphs.constant(tensor_of(graph, "c"))
    assert value is not None
    np.testing.assert_array_equal(value, expected)
    assert (value.dtype, value.shape) == (expected.dtype, expected.shape)


@pytest.mark.parametrize("attribute", ['value_string = "a"', 'value_strings = ["a", "b"]'])
def test_strings_are_constant_but_their_value_is_not_given(attribute: str) -> None:
    graph = view(f"g (float[1] x) => (string y) {{ c = Constant <{attribute}> ()  y = Identity (c) }}")
    assert graphs.is_constant(tensor_of(graph, "c"))
    assert graphs.constant(tensor_of(graph, "c")) is None


def test_an_initializer_is_constant_but_not_one_that_is_an_input_too() -> None:
    proto = parse(f"{HEAD} g (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{ y = Add (x, w) }}")
    graph = Model(proto).graph()
    value = graphs.constant(tensor_of(graph, "w"))
    assert value is not None
    assert value.tolist() == [1, 2]
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [2]))
    graph = Model(proto).graph()
    assert graphs.constant(tensor_of(graph, "w")) is None
    assert not graphs.is_constant(tensor_of(graph, "w"))


def test_a_constant_operator_of_another_domain_is_no_constant() -> None:
    text = (
        '<ir_version: 8, opset_import: ["": 17, "my": 1]> g () => (float[1] y) { y = my.Constant <value_int = 1> () }'
    )
    graph = Model(parse(text)).graph()
    assert graphs.constant(tensor_of(graph, "y")) is None
    assert not graphs.is_op(graph.nodes[0], "Constant")


@pytest.mark.parametrize(("shape", "known"), [([1, 2], (1, 2)), ([], ()), ([0], (0,)), (["n", 2], None), ([-1], None)])
def test_a_shape_is_static_when_every_size_is_a_number(shape: list[int | str], known: tuple[int, ...] | None) -> None:
    assert graphs.static_shape(gs.Variable("x", np.float32, shape)) == known
    assert graphs.static_shape(gs.Variable("x", np.float32, None)) is None


# --- extract ------------------------------------------------------------------------------------------------------

MODEL = """
    g (float[2] x, bool c) => (float[2] y, float[2] z) <float[2] w = {1, 2}> {
        k = Constant <value = float[2] {3, 4}> ()
        a = Add (x, w)
        b = Add (a, w)
        y = If (c) <
            then_branch = t () => (float[2] p) <float[2] v = {5, 6}> { m = Add (b, v)  p = Add (m, k) },
            else_branch = e () => (float[2] q) { q = Add (a, w) }
        >
        z = Neg (y)
    }"""


@pytest.mark.parametrize("condition", [True, False])
def test_two_extracted_halves_give_what_the_whole_gives(condition: bool) -> None:
    graph = view(MODEL)
    Editor(graph).infer_shapes()  # an output needs a type
    a, b = tensor_of(graph, "a"), tensor_of(graph, "b")
    whole = Model.of(graph).proto
    first = Model.of(graphs.extract(graph, [a, b], [])).proto
    second = Model.of(graphs.extract(graph, graph.outputs, ["a", "b"])).proto
    for part in (first, second):
        onnx.checker.check_model(part, full_check=True)
    assert [i.name for i in first.graph.input] == ["x"]
    assert sorted(i.name for i in second.graph.input) == ["a", "b", "c"]
    given = {"x": np.array([1, -1], np.float32), "c": np.array(condition)}
    crossing = session.run(first, given)
    for name, value in session.run(whole, given).items():
        np.testing.assert_array_equal(session.run(second, {**given, **crossing})[name], value)


def test_extract_leaves_the_graph_as_it_was() -> None:
    graph = view(MODEL)
    before = Model.of(graph).fingerprint
    graphs.extract(graph, [tensor_of(graph, "b")], ["a"])
    assert Model.of(graph).fingerprint == before


def test_extract_takes_only_the_branch_that_is_asked_for() -> None:
    graph = view(MODEL)
    part = graphs.extract(graph, [tensor_of(graph, "b")], ["a"])
    assert names(part) == ["b"]
    assert [t.name for t in part.inputs] == ["a"]


def test_extract_does_not_take_a_bodys_own_tensor_for_an_input_of_its_name() -> None:
    graph = view(
        """g (bool c, float[2] x) => (float[2] y) {
        a = Relu (x)
        y = If (c) <
            then_branch = t () => (float[2] p) { a = Neg (x)  p = Exp (a) },
            else_branch = e () => (float[2] q) { q = Identity (x) }
        > }"""
    )
    part = graphs.extract(graph, graph.outputs, ["a"])
    assert [t.name for t in part.inputs] == ["c", "x"]


def test_extract_keeps_the_types_that_only_the_file_knows() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "my": 1]>
        g (float[2] x) => (float[2] y) <float[2, 3] a> { a = my.Thing (x)  b = my.Thing (a)  y = my.Thing (b) }"""
    graph = Model(parse(text)).graph()
    part = Model.of(graphs.extract(graph, graph.outputs, [])).proto
    assert [(i.name, len(i.type.tensor_type.shape.dim)) for i in part.graph.value_info] == [("a", 2)]


def test_extract_gives_a_constant_as_an_output() -> None:
    graph = view("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }")
    part = Model.of(graphs.extract(graph, [tensor_of(graph, "w")], [])).proto
    np.testing.assert_array_equal(session.run(part, {})["w"], [1, 2])


def test_extract_leaves_a_default_to_those_who_ask_for_it() -> None:
    graph = view("g (float[2] x, float[2] t) => (float[2] y) <float[2] t = {1, 2}> { y = Add (x, t) }")
    bare, whole = (
        Model.of(graphs.extract(graph, graph.outputs, [], with_defaults=with_them)) for with_them in (False, True)
    )
    assert (bare.inputs, whole.inputs) == (["x", "t"], ["x"])
    assert [graphs.has_default(tensor, graph) for tensor in graph.inputs] == [False, True]
    with pytest.raises(PassError, match="input 't' is not given"):  # what a caller may override is no constant
        Editor(graph).evaluate([tensor_of(graph, "y")], {"x": np.ones(2, np.float32)})


def test_tensor_names_are_those_of_bodies_and_of_unused_initializers_too() -> None:
    graph = view(MODEL.replace("<float[2] w = {1, 2}>", "<float[2] w = {1, 2}, float[1] spare = {0}>"))
    assert graphs.tensor_names(graph) >= {"x", "c", "w", "spare", "v", "m", "p", "q", "z"}
    assert "" not in graphs.tensor_names(graph)
