from __future__ import annotations

import pytest

from graphsurgery import graph as graphs
from graphsurgery.operators.static_shapes import (
    dynamic_values,
    fold_shapes,
    free_inputs,
    shape_text,
    size_of,
)
from operators.small_graphs import view


def test_arithmetic_on_a_known_shape_becomes_constant() -> None:
    graph, edit = view(
        """g (float[1, 3, 8, 8] x) => (y) <int64[1] at = {2}, int64[1] two = {2}>
        { s = Shape (x)  h = Gather (s, at)  t = Mul (h, two)  y = ConstantOfShape (t) }"""
    )
    fold_shapes(edit, frozen=False)
    assert graphs.static_shape(graph.outputs[0]) == (16,)
    assert dynamic_values(graph) == []


def test_shapes_that_were_written_down_are_not_trusted_after_an_input_was_frozen() -> None:
    graph, edit = view("g (float[n, 2] x) => (float[n, 2] y) { a = Relu (x)  y = Neg (a) }")
    assert dynamic_values(graph) == ["x [n, 2]", "a of unknown rank", "y [n, 2]"]
    graph.inputs[0].shape = [4, 2]
    fold_shapes(edit, frozen=True)
    assert dynamic_values(graph) == []
    assert graphs.static_shape(graph.outputs[0]) == (4, 2)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_size_that_is_only_written_down_is_not_computed_with(frozen: bool) -> None:
    graph, edit = view(
        """g (float[1, n] x) => (int64[2] s, int64[2] t) <float[1, 8] a, float[1, 8] b>
        { a = Relu (x)  s = Shape (a)  b = Doubled (x)  c = Relu (b)  t = Shape (c) }"""
    )
    fold_shapes(edit, frozen)
    assert [node.op for node in graph.nodes] == ["Relu", "Shape", "Doubled", "Relu", "Shape"]


def test_a_name_of_the_model_stays_where_nothing_better_is_found() -> None:
    graph, edit = view("g (float[2, 2] x) => (int64[2, found] y) { y = NonZero (x) }")
    fold_shapes(edit, frozen=False)
    assert graph.outputs[0].shape == [2, "found"]


def test_an_input_with_a_default_need_not_be_given() -> None:
    graph, _ = view("g (float[2] x, float[1] limit) => (float[2] y) <float[1] limit = {3}> { y = Min (x, limit) }")
    assert [tensor.name for tensor in free_inputs(graph)] == ["x"]


@pytest.mark.parametrize(("dimension", "size"), [(3, 3), ("n", None), (None, None), (0, None), (-1, None)])
def test_a_dimension_is_a_size_where_it_is_positive(dimension: object, size: int | None) -> None:
    assert size_of(dimension) == size


def test_a_shape_is_shown_with_what_is_not_known() -> None:
    assert shape_text([1, None, "n"]) == "[1, ?, n]"
