import pytest

from graphsurgery.passes.lower_patch_conv import LowerPatchConv
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = LowerPatchConv()
UNIT = "Conv <dilations = [1, 1], group = 1, kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1]>"


def model(
    body: str,
    weights: str = "float[1, 2, 1, 2] w = {1, 2, 3, 4}",
    x: str = "float[n, 2, 3, 4] x",
    y: str = "float[n, 1, 3, 2] y",
) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g ({x}) => ({y}) <{weights}> {{ {body} }}"""


def test_becomes_a_conv_of_1x1_over_blocks() -> None:
    after = model(
        "y_reshape = Reshape (x, y_windows_shape) y_transpose = Transpose <perm = [0, 1, 3, 5, 2, 4]> (y_reshape) "
        f"y_blocks = Reshape (y_transpose, y_blocks_shape) y = {UNIT} (y_blocks, y_weight)",
        "int64[6] y_windows_shape = {0, 2, 3, 1, 2, 2}, int64[4] y_blocks_shape = {0, 4, 3, 2}, "
        "float[1, 4, 1, 1] y_weight = {1, 2, 3, 4}",
    )
    assert_rewrites(PASS, model("y = Conv <strides = [1, 2]> (x, w)"), after)


@pytest.mark.parametrize(
    ("attributes", "x", "reason"),
    [
        ("strides = [1, 1]", "float[n, 2, 3, 4] x", None),
        ("strides = [1, 3]", "float[n, 2, 3, 4] x", None),
        ("strides = [1, 2], pads = [0, 1, 0, 1]", "float[n, 2, 3, 4] x", "it is padded, dilated or of several groups"),
        ("strides = [1, 2], dilations = [1, 2]", "float[n, 2, 3, 4] x", "it is padded, dilated or of several groups"),
        ("strides = [1, 2], group = 2", "float[n, 4, 3, 4] x", "it is padded, dilated or of several groups"),
        ("strides = [1, 2]", "float[n, 2, 3, 5] x", "3 x 5 doesn't divide into windows of 1 x 2"),
        ("strides = [1, 2]", "float[n, 2, 3, k] x", "its channels, height and width are not known, or 0"),
    ],
)
def test_leaves_others_alone(attributes: str, x: str, reason: str | None) -> None:
    weights = "float[2, 2, 1, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}"
    assert_untouched(PASS, model(f"y = Conv <{attributes}> (x, w)", weights, x, "float[n, m, h, k2] y"), reason)


def test_leaves_a_weight_that_is_fed_alone() -> None:
    fed = model("y = Conv <strides = [1, 2]> (x, w)", "", "float[n, 2, 3, 4] x, float[1, 2, 1, 2] w")
    assert_untouched(PASS, fed.replace("<>", ""), "its weight is not constant")


@fuzz(PASS)
def test_any_conv_of_patches_computes_the_same(build: Builder) -> list[str]:
    batch, channels, rows, columns = build.shape(rank=(4, 4), sizes=(1, 3))
    tall, wide, filters = build.integer(1, 4), build.integer(1, 4), build.integer(1, 3)
    x = build.input([batch, channels, rows * tall, columns * wide])
    own = [build.weight([filters, channels, tall, wide])]
    if build.chance(2):
        own.append(build.weight([filters]))
    return [build.node("Conv", [x, *own], strides=[tall, wide])]
