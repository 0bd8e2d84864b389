import numpy as np

from graphsurgery.passes.lower_reduce_sum import LowerReduceSum
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = LowerReduceSum()


def model(body: str, weights: str = "", x: str = "float[1, 3, 2, 2] x", y: str = "float[1, 1, 2, 2] y") -> str:
    return f'<ir_version: 8, opset_import: ["": 17, "my": 1]> g ({x}) => ({y}) <{weights}> {{ {body} }}'


def test_a_sum_over_the_channels_becomes_a_conv_of_ones() -> None:
    conv = "Conv <kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1], group = 1>"
    after = model(f"y = {conv} (x, y_ones)", "float[1, 3, 1, 1] y_ones = {1, 1, 1}")
    assert_rewrites(PASS, model("y = ReduceSum (x, a)", "int64[1] a = {1}"), after)


def test_a_sum_over_the_last_axis_becomes_a_product_with_ones() -> None:
    before = model("y = ReduceSum <keepdims = 0> (x, a)", "int64[1] a = {-1}", "float[4, 3] x", "float[4] y")
    after = model(
        "y_sums = MatMul (x, y_ones)  y = Squeeze (y_sums, y_axes)",
        "float[3, 1] y_ones = {1, 1, 1}, int64[1] y_axes = {1}",
        "float[4, 3] x",
        "float[4] y",
    )
    assert_rewrites(PASS, before, after)


def test_a_sum_over_height_and_width_becomes_a_mean_and_a_product() -> None:
    y = "float[1, 3, 1, 1] y"
    after = model("y_means = GlobalAveragePool (x)  y = Mul (y_means, y_area)", "float y_area = {4}", y=y)
    assert_rewrites(PASS, model("y = ReduceSum (x, a)", "int64[2] a = {3, 2}", y=y), after)


def test_leaves_other_axes_and_sizes_alone() -> None:
    rows = model("y = ReduceSum (x, a)", "int64[1] a = {0}", y="float[1, 3, 2, 2] y")
    assert_untouched(PASS, rows, "it sums over the axes [0] of 4")
    all_axes = model("y = ReduceSum (x)", y="float[1, 1, 1, 1] y")
    assert_untouched(PASS, all_axes, "it sums over the axes [] of 4")
    computed = model("y = ReduceSum (x, a)", x="float[1, 3, 2, 2] x, int64[1] a")
    assert_untouched(PASS, computed, "its axes are not constant")
    open_ = model("y = ReduceSum (x, a)", "int64[1] a = {1}", "float[N, N, N] x", "float[N, 1, N] y")
    assert_untouched(PASS, open_, "it sums over the axes [1] of 3")
    width = model("y = ReduceSum (x, a)", "int64[1] a = {-1}", "float[1, 3, 2, W] x", "float[1, 3, 2, 1] y")
    assert_untouched(PASS, width, "the size of what it sums over is not known, or 0")
    empty = model("y = ReduceSum (x, a)", "int64[1] a = {1}", "float[0, 3, 2, 2] x", "float[0, 1, 2, 2] y")
    assert_untouched(PASS, empty, "its input has no elements")
    whole = model("y = ReduceSum (x, a)", "int64[1] a = {1}", "int32[1, 3, 2, 2] x", "int32[1, 1, 2, 2] y")
    assert_untouched(PASS, whole, "its elements are int32, not")


@fuzz(PASS)
def test_any_sum_computes_the_same(build: Builder) -> list[str]:
    shape = build.shape(rank=(1, 4))
    axes = build.choice([[len(shape) - 1], [-1], [1 % len(shape)], [2, 3] if len(shape) == 4 else [0]])
    x, keepdims = build.input(shape, build.dtype()), build.choice([None, 0, 1])
    if build.opset < 13:
        return [build.node("ReduceSum", [x], axes=axes, keepdims=keepdims)]
    given = build.constant(np.array(axes, np.int64))
    return [build.node("ReduceSum", [x, given], keepdims=keepdims)]
