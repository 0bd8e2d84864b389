from __future__ import annotations

import pytest

from graphsurgery.operators.real_bounds import Bounds, bounds
from operators.small_graphs import view


def of(body: str, weights: str = "") -> Bounds | None:
    graph, _ = view(f"g (float[2, 4] x, float[2, 4] z) => (y) {f'<{weights}>' if weights else ''} {{ {body} }}")
    return bounds(graph).get(id(graph.outputs[0]))


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("y = Sigmoid (x)", (0, 1)),
        ("y = Softmax (x)", (0, 1)),
        ("t = Tanh (x)  y = Relu (t)", (0, 1)),
        ("s = Sigmoid (x)  y = Mul (s, k)", (0, 640)),
        ("s = Sigmoid (x)  t = Mul (k, s)  y = Sub (k, t)", (0, 640)),
        ("s = Tanh (x)  y = Div (s, h)", (-2, 2)),
        ("s = Tanh (x)  y = Pow (s, two)", (0, 1)),
        ("s = Tanh (x)  y = Neg (s)", (-1, 1)),
        ("s = Sigmoid (x)  t = Tanh (x)  y = Concat <axis = 0> (s, t)", (-1, 1)),
        ("s = Sigmoid (x)  y, places = TopK (s, many)", (0, 1)),
        ("y = Clip (x, h, k)", (0.5, 640)),
        ("s = Sigmoid (x)  y = Clip (s, h)", (0.5, 1)),
        ("c = Constant <value = float[2] {3, -1}> ()  s = Sigmoid (x)  y = Mul (s, c)", (-1, 3)),
    ],
)
def test_the_bounds_follow_from_the_operators(body: str, found: Bounds) -> None:
    assert of(body, "float k = {640}, float h = {0.5}, float two = {2}, int64[1] many = {1}") == found


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu (x)",
        "s = Sigmoid (x)  y = Mul (s, z)",
        "s = Sigmoid (x)  y = Div (s, sign)",
        "s = Sigmoid (x)  y = Pow (s, sign)",
        "s = Sigmoid (x)  y = Concat <axis = 0> (s, z)",
        "y = Clip (x, zero)",
        "s = Sigmoid (x)  v, i = TopK (s, many)  y = Cast <to = 1> (i)",
    ],
)
def test_what_nothing_tells_has_none(body: str) -> None:
    assert of(body, "float[2] sign = {-1, 1}, float zero = {0}, int64[1] many = {1}") is None


def test_a_node_that_lacks_its_inputs_has_none() -> None:
    assert of("y = Relu ()") is None
