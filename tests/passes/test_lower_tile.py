import numpy as np
import pytest

from graphsurgery.passes.lower_tile import LowerTile
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = LowerTile()


def model(body: str, y: str, weights: str = "", x: str = "float[2, 3] x", opset: int = 17) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({x}) => ({y}) <{weights}> {{ {body} }}"""


def tile(repeats: str, y: str, opset: int = 17) -> str:
    return model("y = Tile (x, r)", y, f"int64[2] r = {{{repeats}}}", opset=opset)


def test_becomes_a_concat_of_copies() -> None:
    after = model("y = Concat <axis = 1> (x, x, x)", "float[2, 9] y")
    assert_rewrites(PASS, tile("1, 3", "float[2, 9] y"), after)


def test_each_axis_gets_a_concat() -> None:
    nodes = "y_repeated = Concat <axis = 0> (x, x) y = Concat <axis = 1> (y_repeated, y_repeated)"
    assert_rewrites(PASS, tile("2, 2", "float[4, 6] y"), model(nodes, "float[4, 6] y"))


def test_one_that_repeats_nothing_becomes_an_identity_between_the_ends() -> None:
    assert_rewrites(PASS, tile("1, 1", "float[2, 3] y"), model("y = Identity (x)", "float[2, 3] y"))


@pytest.mark.parametrize("repeats", ["1, 0", "65, 1"])
def test_leaves_none_and_too_many_copies_alone(repeats: str) -> None:
    assert_untouched(PASS, tile(repeats, "float[n, m] y"), "not 1 to 64 times")


def test_leaves_computed_repeats_alone() -> None:
    text = model("y = Tile (x, r)", "float[n, m] y", x="float[2, 3] x, int64[2] r")
    assert_untouched(PASS, text, "its repeats are not constant")


@fuzz(PASS)
def test_any_tile_computes_the_same(build: Builder) -> list[str]:
    shape = build.shape(rank=(1, 3), sizes=(1, 3))
    x = build.input(shape, build.dtype([np.float32, np.int64, np.bool_]))
    repeats = np.array([build.integer(1, 3) for _ in shape], np.int64)
    return [build.node("Tile", [x, build.constant(repeats)])]
