from __future__ import annotations

import numpy as np
import pytest

from graphsurgery.operators.float_ranges import LAYER_LIMIT, FloatRange, FloatRanges, is_finite
from operators.small_graphs import view

MOST = LAYER_LIMIT["float32"]
INPUTS = "float[2, 3] x, float[3, 2] w, uint8[2] u, bool[2, 2] b"


def of(body: str, weights: str = "") -> FloatRange | None:
    graph, edit = view(f"g ({INPUTS}) => (y) {f'<{weights}>' if weights else ''} {{ {body} }}")
    return FloatRanges(edit).of(graph.outputs[0])


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("y = Sigmoid (x)", (0, 1)),
        ("a = Tanh (x)  y = Neg (a)", (-1, 1)),
        ("a = Tanh (x)  y = Relu (a)", (0, 1)),
        ("y = MatMul (x, w)", (-MOST, MOST)),
        ("y = Cast <to = 1> (u)", (0, 255)),
        ("y = Cast <to = 1> (b)", (0, 1)),
        ("a = Sigmoid (x)  y = Add (a, c)", (-2, 4)),
        ("a = Sigmoid (x)  y = Sub (c, a)", (-3, 3)),
        ("a = Sigmoid (x)  y = Mul (a, c)", (-2, 3)),
        ("a = Sigmoid (x)  y = Concat <axis = 0> (a, c)", (-2, 3)),
        ("a = Sigmoid (x)  y = Max (a, c)", (0, 3)),
        ("m = MatMul (x, w)  y = Clip (m, zero, three)", (0, 3)),
        ("y = Where (b, three, lowest)", (-np.inf, 3)),
        ("a = Add (low, low)  y = Identity (a)", (-np.inf, -np.inf)),
        ("m = MatMul (x, w)  y = Add (m, low)", (float(np.float32(-3.4028235e38)), -1)),
        ("a = Sigmoid (x)  y, i = TopK (a, one)", (0, 1)),
        ("a = Sigmoid (x)  t = Mul (a, three)  y = Pow (t, two)", (0, 9)),
        ("a = Sigmoid (x)  y = Pow (a, three)", None),
        ("y = Identity (x)", None),
        ("y = Log (x)", None),
        ("a = Add (x, c)  y = Identity (a)", None),
        ("a = Sigmoid (x)  y = Div (c, a)", None),
        ("y = Sub (lowest, lowest)", None),
        ("y = Gemm (x, w, x)", None),
    ],
)
def test_a_range_is_proven_or_none(body: str, found: FloatRange | None) -> None:
    weights = "float[2, 3] c = {-2, 3, 0, 1, 2, 0}, float zero = {0}, float three = {3}, float lowest = {-inf}"
    weights += ", float two = {2}, int64[1] one = {1}"
    got = of(body, f"{weights}, float low = {{-3.4028235e38}}")
    if found is not None and found[1] == -1:  # a score is lost in the lowest number, and leaves it finite
        assert got is not None
        assert got[0] == found[0]
        assert is_finite(got)
    else:
        assert got == found


def test_a_layer_whose_bias_is_infinite_tells_nothing() -> None:
    assert of("y = Gemm (x, w, c)", "float[2] c = {0, -inf}") is None


def test_what_may_be_infinite_is_not_finite() -> None:
    assert is_finite((-1.0, 2.0))
    assert not is_finite((-np.inf, 2.0))
    assert not is_finite(None)
