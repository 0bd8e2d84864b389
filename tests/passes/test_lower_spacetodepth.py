import pytest

from graphsurgery.passes.lower_spacetodepth import LowerSpacetodepth
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = LowerSpacetodepth()


def model(body: str, weights: str = "", x: str = "float[n, 2, 6, 10] x", y: str = "float[n, 8, 3, 5] y") -> str:
    return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g ({x}) => ({y}) <{weights}> {{ {body} }}"""


def test_becomes_reshapes_around_a_transpose() -> None:
    after = model(
        "y_reshape = Reshape (x, y_blocks_shape) y_transpose = Transpose <perm = [0, 3, 5, 1, 2, 4]> (y_reshape) "
        "y = Reshape (y_transpose, y_shape)",
        "int64[6] y_blocks_shape = {0, 2, 3, 2, 5, 2}, int64[4] y_shape = {0, 8, 3, 5}",
    )
    assert_rewrites(PASS, model("y = SpaceToDepth <blocksize = 2> (x)"), after)


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        ("float[n, c, 6, 10] x", "its channels, height and width are not known, or 0"),
        ("float[n, 2, 7, 10] x", "7 x 10 can't be cut into blocks of 2 by 2"),
    ],
)
def test_leaves_other_sizes_alone(x: str, reason: str) -> None:
    assert_untouched(PASS, model("y = SpaceToDepth <blocksize = 2> (x)", x=x, y="float[n, c2, h, 5] y"), reason)


@fuzz(PASS)
def test_any_space_to_depth_computes_the_same(build: Builder) -> list[str]:
    batch, channels, height, width = build.shape(rank=(4, 4), sizes=(1, 3))
    block = build.integer(1, 3)
    x = build.input([batch, channels, height * block, width * block])
    return [build.node("SpaceToDepth", [x], blocksize=block)]
