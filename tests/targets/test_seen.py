"""What a tool computes before it looks at a graph is nothing that a target takes, and tells sizes and constants."""

from __future__ import annotations

from graphsurgery.graph.model import Model
from graphsurgery.targets.load import Named
from graphsurgery.targets.support import support
from targets.nodes import model, supported, target

STATIC = {"tensors": {"static": True, "else": "refused"}, "others": "taken"}
# what no data propagation of ONNX's goes through: Equal, Where, Max
CHAIN = """
g (float[1, 8, {h}, 4] x, float[1, 8, {h}, 4] z) => (float[n, c] y)
    <int64 one = {{1}}, int64[1] at = {{0}}, int64[2] named = {{-1, 32}}, int64[2] low = {{1, 1}}, int64 least = {{2}},
     float[6, {w}] weight = {{{zeros}}}>
{{
    shape = Shape (x)
    size = Gather (shape, one)
    large = Max (size, least)
    first = Unsqueeze (large, at)
    last = Constant <value_ints = [4]> ()
    both = Concat <axis = 0> (first, last)
    is = Equal (named, low)
    sizes = Where (is, low, both)
    added = Add (x, z)
    flat = Reshape (added, sizes)
    turned = Transpose (weight)
    y = MatMul (flat, turned)
}}
"""


def chain(height: int | str = 1) -> str:
    return CHAIN.format(h=height, w=4, zeros=", ".join(["0"] * 24))


def test_sizes_that_arithmetic_on_static_shapes_tells_are_known() -> None:
    found = supported(model(chain()), target(**STATIC))
    assert [(node.op, node.verdict.outcome) for node in found.nodes] == [
        ("Add", "taken"),
        ("Reshape", "taken"),
        ("MatMul", "taken"),
    ]
    assert found.nodes[-1].multiply_adds == 8 * 4 * 6


def test_nodes_keep_the_numbers_of_the_file() -> None:
    written = model(chain())
    found = supported(written, target(**STATIC))
    assert [written.graph.node[node.number].op_type for node in found.nodes] == ["Add", "Reshape", "MatMul"]


def test_a_graph_as_it_is_written_has_them_open() -> None:
    named = Named("mine", target(**STATIC))
    found = support(Model(model(chain())), named, folded=False)
    outcomes = {node.op: node.verdict.outcome for node in found.nodes}
    assert outcomes["Shape"] == "taken"
    assert outcomes["Reshape"] == outcomes["MatMul"] == "refused"


def test_arithmetic_on_open_shapes_stays() -> None:
    found = supported(model(chain("h").replace("Gather (shape, one)", "Gather (shape, least)")), target(**STATIC))
    outcomes = {node.op: node.verdict.outcome for node in found.nodes}
    assert outcomes["Gather"] == "taken"
    assert outcomes["Reshape"] == "refused"


def test_what_constants_alone_compute_is_constant() -> None:
    rule = {"constant": "B", "else": "cpu"}
    assert not supported(model(chain()), target(others="taken", operators={"MatMul": rule})).left
    fed = "g (float[2, 3] x, float[4, 3] w) => (float[2, 4] y) { t = Transpose (w)\n y = MatMul (x, t) }"
    left = supported(model(fed), target(others="taken", operators={"MatMul": rule})).left
    assert [node.verdict.reason for node in left] == ["B isn't constant"]


def test_a_small_value_that_is_computed_is_known() -> None:
    picked = """g (float[1, 20] x) => (float[1, k] y, int64[1, k] i) <int64[1] most = {7}, int64[1] asked = {9}>
    { k = Min (most, asked)
      y, i = TopK (x, k) }"""
    rule = {"constant": "K", "K": "..8", "else": "cpu"}
    assert not supported(model(picked), target(others="taken", operators={"TopK": rule})).left
    left = supported(model(picked), target(others="taken", operators={"TopK": rule | {"K": "..6"}})).left
    assert [node.verdict.reason for node in left] == ["K 7, where at most 6 is taken"]


def test_what_constants_alone_compute_is_no_tensor_of_a_node_that_reads_it() -> None:
    picked = (
        "g (float[2, 3] x) => (float[2, 1] y) <int64[1] two = {2}> { at = Sign (two)\n y = Gather <axis = 1> (x, at) }"
    )
    found = supported(model(picked), target(tensors={"types": "float32", "else": "cpu"}))
    assert [(node.op, node.verdict.outcome) for node in found.nodes] == [("Gather", "taken")]


def test_a_static_size_of_a_shape_that_is_open_is_computed_at_run_time() -> None:
    text = """
        g (float[n, 8, 4] x, float[16] z) => (float[p, q] y) <int64 one = {1}, int64[1] at = {0}, int64[1] all = {-1}> {
            shape = Shape (x)
            size = Gather (shape, one)
            first = Unsqueeze (size, at)
            sizes = Concat <axis = 0> (first, all)
            y = Reshape (z, sizes)
        }
    """
    outcomes = [node.op for node in supported(model(text), target(others="taken")).nodes]
    assert outcomes == ["Shape", "Gather", "Unsqueeze", "Concat", "Reshape"]
