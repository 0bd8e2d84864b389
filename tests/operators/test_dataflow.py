from __future__ import annotations

from graphsurgery.operators.dataflow import (
    at_fixed_shapes,
    bottlenecks,
    flow,
    is_shape,
    reads,
    upstream,
    weighted_input,
)
from operators.small_graphs import view

DIAMOND = """g (float[2, 2] x, float[2, 2] z) => (float[2, 2] y, float[2, 2] w)
    { a = Neg (x)  b = Abs (a)  c = Exp (a)  d = Add (b, c)  y = Relu (d)  w = Neg (z) }"""


def test_flow_is_all_that_depends_on_the_sources() -> None:
    graph, _ = view(DIAMOND)
    found = flow(graph, [graph.inputs[0]], lambda node, _: False)
    names = {tensor.name for node in graph.nodes for tensor in node.outputs if id(tensor) in found}
    assert names == {"a", "b", "c", "d", "y"}


def test_flow_ends_at_known_tensors_and_at_nodes_that_stop_it() -> None:
    graph, _ = view(DIAMOND)
    a = graph.nodes[0].outputs[0]
    assert flow(graph, [graph.inputs[0]], lambda node, _: False, [a]) == {id(graph.inputs[0])}
    assert flow(graph, [graph.inputs[0]], lambda node, _: node.op == "Neg") == {id(graph.inputs[0])}


def test_flow_goes_through_bodies() -> None:
    graph, _ = view(
        """g (float[2] x, bool c) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] p) { p = Neg (x) },
                        else_branch = e () => (float[2] q) { q = Abs (x) }>
        }"""
    )
    node = graph.nodes[0]
    assert id(node.outputs[0]) in flow(graph, [graph.inputs[0]], lambda node, _: False)
    assert "x" in [tensor.name for tensor in reads(node)]


def test_upstream_is_in_the_order_of_the_graph() -> None:
    graph, _ = view(DIAMOND)
    varying = flow(graph, [graph.inputs[0]], lambda node, _: False)
    assert [node.op for node in upstream(graph, [graph.outputs[0]], varying)] == ["Neg", "Abs", "Exp", "Add", "Relu"]


def test_bottlenecks_are_what_everything_flows_through_the_nearest_first() -> None:
    graph, _ = view(DIAMOND)
    varying = flow(graph, [graph.inputs[0]], lambda node, _: False)
    found = bottlenecks(graph, [graph.outputs[0]], varying, lambda node: True)
    assert [tensor.name for tensor in found] == ["y", "d", "a", "x"]
    short = bottlenecks(graph, [graph.outputs[0]], varying, lambda node: node.op != "Neg")
    assert [tensor.name for tensor in short] == ["y", "d", "a"]


def test_a_weighted_input_varies_and_its_weights_do_not() -> None:
    graph, _ = view("g (float[2, 2] x) => (y) <float[2, 2] w = {1, 2, 3, 4}> { a = MatMul (x, w)  y = MatMul (x, a) }")
    varying = flow(graph, [graph.inputs[0]], lambda node, _: False)
    assert weighted_input(graph.nodes[0], varying) is graph.inputs[0]
    assert weighted_input(graph.nodes[1], varying) is None


def test_a_shape_is_fixed_where_its_sizes_are_known() -> None:
    graph, edit = view("g (float[2, 2] x, float[n] z) => (a, b) { a = Shape (x)  b = Size (z) }")
    assert [is_shape(node) for node in graph.nodes] == [True, True]
    assert [at_fixed_shapes(edit)(node, set()) for node in graph.nodes] == [True, False]
