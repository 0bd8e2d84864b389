import pytest

from graphsurgery.passes.lower_depthtospace import LowerDepthtospace
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = LowerDepthtospace()


def model(body: str, weights: str = "", x: str = "float[n, 8, 3, 5] x", y: str = "float[n, 2, 6, 10] y") -> str:
    return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g ({x}) => ({y}) <{weights}> {{ {body} }}"""


@pytest.mark.parametrize(
    ("mode", "blocks", "perm"),
    [("DCR", "0, 2, 2, 2, 3, 5", "0, 3, 4, 1, 5, 2"), ("CRD", "0, 2, 2, 2, 3, 5", "0, 1, 4, 2, 5, 3")],
)
def test_becomes_reshapes_around_a_transpose(mode: str, blocks: str, perm: str) -> None:
    before = model(f'y = DepthToSpace <blocksize = 2, mode = "{mode}"> (x)')
    after = model(
        f"y_reshape = Reshape (x, y_blocks_shape) y_transpose = Transpose <perm = [{perm}]> (y_reshape) "
        "y = Reshape (y_transpose, y_shape)",
        f"int64[6] y_blocks_shape = {{{blocks}}}, int64[4] y_shape = {{0, 2, 6, 10}}",
    )
    assert_rewrites(PASS, before, after)


@pytest.mark.parametrize("x", ["float[n, c, 3, 5] x", "float[n, 8, h, 5] x", "float[n, 8, 0, 5] x"])
def test_leaves_sizes_that_are_not_known_alone(x: str) -> None:
    text = model("y = DepthToSpace <blocksize = 2> (x)", x=x, y="float[n, c2, h2, 10] y")
    assert_untouched(PASS, text, "its channels, height and width are not known, or 0")


@fuzz(PASS, opsets=(11, 13, 17, 21))
def test_any_depth_to_space_computes_the_same(build: Builder) -> list[str]:
    batch, channels, height, width = build.shape(rank=(4, 4), sizes=(1, 3))
    block = build.integer(1, 3)
    x = build.input([batch, channels * block**2, height, width])
    return [build.node("DepthToSpace", [x], blocksize=block, mode=build.choice([None, "DCR", "CRD"]))]


def test_leaves_channels_that_are_no_blocks_alone() -> None:
    text = model("y = DepthToSpace <blocksize = 3> (x)", y="float[n, c, h, w] y")
    assert_untouched(PASS, text, "8 channels can't be laid out in blocks of 3 by 3")
