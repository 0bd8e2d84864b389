from __future__ import annotations

import pytest

from graphsurgery.operators.axes import Bounds, bounds, integers, keeps_dims, normalised
from operators.small_graphs import view


def test_integers_are_read_from_the_attribute_or_the_input_that_took_its_place() -> None:
    old, _ = view("g (float[2, 1] x) => (float[2] y) { y = Squeeze <axes = [1]> (x) }", 12)
    new, _ = view("g (float[2, 1] x) => (float[2] y) <int64[1] a = {1}> { y = Squeeze (x, a) }")
    assert integers(old.nodes[0], "axes", 1) == integers(new.nodes[0], "axes", 1) == [1]


def test_integers_that_are_absent_are_none_at_all_and_computed_ones_are_unknown() -> None:
    absent, _ = view("g (float[1] x) => (y) { y = Squeeze (x) }")
    computed, _ = view("g (float[2, 1] x, int64[1] a) => (y) { y = Squeeze (x, a) }")
    assert integers(absent.nodes[0], "axes", 1) == []
    assert integers(computed.nodes[0], "axes", 1) is None


@pytest.mark.parametrize(
    ("axes", "rank", "counted"),
    [([-1, 0], 3, [2, 0]), ([3], 3, None), ([-4], 3, None), ([1, -2], 3, None), ([], 0, [])],
)
def test_axes_are_counted_from_the_front_and_none_stands_twice(
    axes: list[int], rank: int, counted: list[int] | None
) -> None:
    assert normalised(axes, rank) == counted


def test_the_bounds_of_a_slice_have_the_defaults_of_the_specification() -> None:
    graph, _ = view(
        "g (float[4, 4] x) => (y) <int64[2] s = {1, 0}, int64[2] e = {3, 9}> { y = Slice (x, s, e) }",
    )
    assert bounds(graph.nodes[0]) == [Bounds(0, 1, 3, 1), Bounds(1, 0, 9, 1)]


def test_bounds_that_contradict_each_other_are_none() -> None:
    graph, _ = view("g (float[4] x) => (y) <int64[1] s = {1}, int64[2] e = {3, 4}> { y = Slice (x, s, e) }")
    assert bounds(graph.nodes[0]) is None


def test_a_reduction_keeps_its_axes_unless_it_says_otherwise() -> None:
    kept, _ = view("g (float[2, 2] x) => (y) { y = ReduceMean <axes = [1]> (x) }")
    gone, _ = view("g (float[2, 2] x) => (y) { y = ReduceMean <axes = [1], keepdims = 0> (x) }")
    assert keeps_dims(kept.nodes[0])
    assert not keeps_dims(gone.nodes[0])
