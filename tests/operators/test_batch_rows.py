from __future__ import annotations

import pytest

from graphsurgery.operators.batch_rows import Rows, counted_by
from operators.small_graphs import view

ONES = {count: ", ".join("1" * count) for count in (3, 6, 21)}
WEIGHTS = f"<float[3, 2] w = {{{ONES[6]}}}, float[1, 3] b = {{{ONES[3]}}}, float[7, 3] each = {{{ONES[21]}}}>"


def mixed(body: str) -> str | None:
    """Return why the rows of x are mixed; None where they stay apart."""
    graph, edit = view(f"g (float[7, 3] x) => (y) {WEIGHTS} {{ {body} }}")
    edit.infer_shapes()
    found = Rows(7, edit.opset, {id(graph.inputs[0])}, set(), False).follow(graph.nodes)
    return None if found is None else found[1]


@pytest.mark.parametrize(
    "body", ["y = Relu (x)", "y = Add (x, b)", "y = MatMul (x, w)", "y = Gemm (x, w)", "y = Softmax <axis = 1> (x)"]
)
def test_rows_stay_apart(body: str) -> None:
    assert mixed(body) is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Add (x, each)", "its operand 'each' differs from row to row"),
        ("y = Softmax <axis = 0> (x)", "it works along the leading dimension"),
        ("y = Transpose <perm = [1, 0]> (x)", "it moves the leading dimension"),
        ("y = Gemm <transA = 1> (x, each)", "it multiplies with the batch transposed"),
        ("y = NonZero (x)", "it is not known to keep the rows of a batch apart"),
    ],
)
def test_rows_are_mixed_and_it_says_why(body: str, reason: str) -> None:
    assert mixed(body) == reason


def test_what_is_computed_from_the_number_of_rows_is_counted_and_what_reads_values_is_not() -> None:
    graph, _ = view("g (float[n, 3] x) => (y) { s = Shape (x)  t = Add (s, s)  v = Neg (x)  y = Reshape (v, t) }")
    counted = counted_by(graph.nodes, [graph.inputs[0]])
    assert [node.outputs[0].name for node in graph.nodes if id(node.outputs[0]) in counted] == ["s", "t"]
