from __future__ import annotations

import numpy as np
import pytest

from graphsurgery.operators.operands import only_reader, optional, rank, scalar, scaled
from operators.small_graphs import view


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("float c = {2.5}", 2.5),
        ("float[1, 1] c = {2.5}", 2.5),
        ("int64[1] c = {3}", 3.0),
        ("float[2] c = {1, 1}", None),
        ("bool c = {1}", None),
    ],
)
def test_a_scalar_is_one_number_of_any_rank(value: str, number: float | None) -> None:
    graph, _ = view(f"g (float[2] x) => (y) <{value}> {{ y = Identity (c) }}")
    assert scalar(graph.nodes[0].inputs[0]) == number


def test_an_infinite_scalar_or_a_computed_one_is_none() -> None:
    graph, _ = view("g (float[1] x) => (y) { z = Identity (x)  y = Neg (z) }")
    assert scalar(graph.nodes[1].inputs[0]) is None
    graph.nodes[1].inputs[0].to_constant(np.array([np.inf], np.float32))
    assert scalar(graph.nodes[1].inputs[0]) is None


def test_the_rank_of_a_constant_is_told() -> None:
    graph, _ = view("g (float[2] x) => (y) <float[1, 1] c = {2}> { y = Mul (x, c) }")
    assert rank(graph.nodes[0].inputs[1]) == 2


def test_an_input_that_is_left_out_is_none() -> None:
    graph, _ = view('g (float[2] x) => (y) <float h = {1}> { y = Clip (x, "", h) }')
    clip = graph.nodes[0]
    assert [optional(clip, 1), optional(clip, 2), optional(clip, 3)] == [None, clip.inputs[2], None]


def test_only_one_reader_counts_and_only_of_what_is_no_output() -> None:
    graph, edit = view(
        "g (float[2] x) => (float[2] y, float[2] b) { a = Neg (x)  b = Abs (a)  c = Neg (b)  y = Add (c, c) }"
    )
    first, second, third, _ = graph.nodes
    assert only_reader(first.outputs[0], edit) is second
    assert only_reader(second.outputs[0], edit) is None, "b is an output as well"
    assert only_reader(third.outputs[0], edit) is None, "read twice by one node"


def test_values_are_scaled_in_their_own_type_and_never_out_of_its_range() -> None:
    values = np.array([1, 0, -2], np.float16)
    assert scaled(values, 1) is values
    found = scaled(values, 0.5)
    assert found is not None
    assert (found.dtype, found.tolist()) == (np.float16, [0.5, 0, -1])
    assert scaled(values, 1e5) is None, "it overflows"
    assert scaled(values, 1e-6) is None, "it becomes subnormal"
