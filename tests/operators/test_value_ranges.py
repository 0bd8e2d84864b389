from __future__ import annotations

import pytest

from graphsurgery.operators.value_ranges import INT32, Interval, Intervals, fits
from operators.small_graphs import view

INPUTS = "float[2, 3, 5] x, int64[4] i, uint8[4] u"


def of(body: str, weights: str = "") -> Interval | None:
    graph, edit = view(f"g ({INPUTS}) => (y) {f'<{weights}>' if weights else ''} {{ {body} }}")
    return Intervals(edit).of(graph.outputs[0])


@pytest.mark.parametrize(
    ("body", "interval"),
    [
        ("y = Shape (x)", (2, 5)),
        ("y = Size (x)", (30, 30)),
        ("y = ArgMax <axis = 2> (x)", (0, 4)),
        ("y = NonZero (x)", (0, 4)),
        ("s = Shape (x)  y = Neg (s)", (-5, -2)),
        ("s = Shape (x)  y = Mul (s, s)", (4, 25)),
        ("s = Shape (x)  t = Neg (s)  y = Concat <axis = 0> (s, t)", (-5, 5)),
        ("y = Cast <to = 7> (u)", (0, 255)),
        ("s = Shape (x)  y = Add (s, i)", None),
        ("y = Identity (i)", None),
    ],
)
def test_an_interval_is_proven_or_none(body: str, interval: Interval | None) -> None:
    assert of(body) == interval


def test_a_constant_lies_between_its_extremes() -> None:
    assert of("y = Identity (c)", "int64[3] c = {7, -2, 3}") == (-2, 7)


def test_places_in_what_has_no_known_size_are_not_negative_at_least() -> None:
    graph, edit = view("g (float[n] x) => (y) { y = NonZero (x) }")
    found = Intervals(edit).of(graph.outputs[0])
    assert found is not None
    assert found[0] == 0
    assert not fits(found, INT32)


def test_a_remainder_is_smaller_than_its_divisor_and_one_by_zero_is_none() -> None:
    body = "u64 = Cast <to = 7> (u)  y = Mod (u64, c)"
    assert of(body, "int64[1] c = {10}") == (0, 9)
    assert of(body, "int64[1] c = {0}") is None


def test_what_may_leave_64_bits_is_none() -> None:
    assert of("a = Mul (c, c)  y = Mul (a, c)", "int64[1] c = {9000000000}") is None


def test_an_interval_fits_where_it_is_known_and_inside() -> None:
    assert fits((0, 5))
    assert fits(INT32)
    assert not fits((0, 2**31))
    assert not fits(None)
