import numpy as np
import pytest

from graphsurgery.passes.lower_where import LowerWhere
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = LowerWhere()


def model(body: str, weights: str = "", y: str = "float[2, 3] y", opset: int = 17) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}, "mine": 1]>
        g (float[2, 3] a, float[3] b) => ({y}) <{weights}> {{ {body} }}"""


def test_becomes_what_it_picks() -> None:
    before = model("p = Neg (a) q = Where (c, p, b) y = Abs (q)", "bool[1] c = {1}")
    assert_rewrites(PASS, before, model("p = Neg (a) y = Abs (p)"))


def test_what_is_smaller_is_expanded() -> None:
    before = model("y = Where (c, a, b)", "bool[2, 1] c = {0, 0}")
    assert_rewrites(PASS, before, model("y = Expand (b, y_shape)", "int64[2] y_shape = {2, 3}"))


@pytest.mark.parametrize("values", ["1, 0", "0, 1"])
def test_leaves_a_condition_that_differs_alone(values: str) -> None:
    text = model("y = Where (c, a, b)", f"bool[2, 1] c = {{{values}}}")
    assert_untouched(PASS, text, "its condition is not the same everywhere")


def test_leaves_unknown_shapes_and_computed_conditions_alone() -> None:
    text = model("p = mine.Foo (a) y = Where (c, p, b)", "bool[1] c = {1}", "float[m, n] y")
    assert_untouched(PASS, text, "nothing tells the shape")
    assert_untouched(PASS, model("c = Greater (a, b) y = Where (c, a, b)"), "its condition is not constant")


@fuzz(PASS)
def test_any_where_computes_the_same(build: Builder) -> list[str]:
    shape = build.shape(rank=(1, 3))
    dtype = build.dtype([np.float32, np.int64])
    sides = [build.input(build.choice([shape, shape[-1:], [1]]), dtype) for _ in range(2)]
    held = np.full(build.choice([shape, [1]]), build.chance(1))
    if build.chance(4):
        held.flat[0] = not held.flat[0]
    return [build.node("Where", [build.constant(held), *sides])]
