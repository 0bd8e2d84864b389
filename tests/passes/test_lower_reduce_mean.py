import numpy as np
import pytest

from graphsurgery.passes.lower_reduce_mean import LowerReduceMean
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz


def model(body: str, x: str = "float[2, 3, 4, 5] x", y: str = "float[2, 3, 1, 1] y", opset: int = 17) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({x}) => ({y}) {{
            {body}
        }}"""


def axes_input(axes: str, attributes: str = "") -> str:
    count = len(axes.split(",")) if axes else 0
    return f"a = Constant <value = int64[{count}] {{{axes}}}> () y = ReduceMean {attributes} (x, a)"


@pytest.mark.parametrize("opset", [7, 11, 13, 17])
@pytest.mark.parametrize("axes", ["2, 3", "3, 2", "-2, -1", "-1, 2"])
def test_a_mean_over_height_and_width_becomes_a_pool(opset: int, axes: str) -> None:
    if "-" in axes and opset < 11:
        pytest.skip("negative axes came with operator set 11")
    before = model(f"y = ReduceMean <axes = [{axes}]> (x)", opset=opset)
    assert_rewrites(LowerReduceMean(), before, model("y = GlobalAveragePool (x)", opset=opset))


@pytest.mark.parametrize("opset", [18, 21])
def test_the_axes_may_be_an_input(opset: int) -> None:
    before = model(axes_input("-1, -2", "<noop_with_empty_axes = 1>"), opset=opset)
    assert_rewrites(LowerReduceMean(), before, model("y = GlobalAveragePool (x)", opset=opset))


@pytest.mark.parametrize("opset", [9, 13, 17, 18])
def test_dimensions_that_are_not_kept_are_flattened_away(opset: int) -> None:
    mean = axes_input("2, 3", "<keepdims = 0>") if opset >= 18 else "y = ReduceMean <axes = [2, 3], keepdims = 0> (x)"
    after = "y_pooled = GlobalAveragePool (x) y = Flatten <axis = 1> (y_pooled)"
    x, y = "float[n, 3, h, w] x", "float[n, 3] y"
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)}
    assert_rewrites(LowerReduceMean(), model(mean, x, y, opset), model(after, x, y, opset), feed)


def test_a_batch_of_none_gives_none() -> None:
    x, y = "float[n, 3, 4, 5] x", "float[n, 3] y"
    before = model("y = ReduceMean <axes = [2, 3], keepdims = 0> (x)", x, y)
    after = model("y_pooled = GlobalAveragePool (x) y = Flatten <axis = 1> (y_pooled)", x, y)
    assert_rewrites(LowerReduceMean(), before, after, {"x": np.zeros((0, 3, 4, 5), np.float32)})


def test_finds_the_rank_of_an_inner_tensor_that_others_read_too() -> None:
    y = "float[2, 3, 1, 1] y, float[2, 3, 4, 5] z, float[2, 3, 4, 5] a"
    before = model("a = Neg (x) y = ReduceMean <axes = [-1, -2]> (a) z = Relu (a)", y=y)
    after = model("a = Neg (x) y = GlobalAveragePool (a) z = Relu (a)", y=y)
    assert_rewrites(LowerReduceMean(), before, after)


def test_works_inside_an_if_body() -> None:
    def inside(body: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2, 3, 4, 5] x) => (float[2, 3, 1, 1] y) {{
            y = If (c) <
                then_branch = t () => (float[2, 3, 1, 1] a) {{ {body} }},
                else_branch = e () => (float[2, 3, 1, 1] b) {{ b = ReduceMax <axes = [2, 3]> (x) }}
            >
        }}"""

    before = inside("a = ReduceMean <axes = [2, 3]> (x)")
    assert_rewrites(LowerReduceMean(), before, inside("a = GlobalAveragePool (x)"))


@pytest.mark.parametrize("axes", ["1, 2", "2", "1, 2, 3", "3, 3", "2, 4", "2, -2"])
def test_leaves_other_axes_alone(axes: str) -> None:
    assert_untouched(LowerReduceMean(), model(f"y = ReduceMean <axes = [{axes}]> (x)"), "not height and width")


def test_leaves_a_mean_of_everything_alone() -> None:
    assert_untouched(LowerReduceMean(), model("y = ReduceMean (x)"), "reduces all axes")
    assert_untouched(LowerReduceMean(), model("y = ReduceMean (x)", opset=18), "reduces all axes")
    assert_untouched(LowerReduceMean(), model(axes_input(""), opset=18), "reduces all axes")


def test_leaves_a_mean_of_nothing_alone() -> None:
    text = model(axes_input("", "<noop_with_empty_axes = 1>"), y="float[2, 3, 4, 5] y", opset=18)
    assert_untouched(LowerReduceMean(), text, "reduces nothing")


def test_leaves_axes_that_a_caller_may_override_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 18]>
        g (float[2, 3, 4, 5] x, int64[2] a) => (float[p, q, r, s] y) <int64[2] a = {2, 3}> {
            y = ReduceMean (x, a)
        }"""
    assert_untouched(LowerReduceMean(), text, "not constant")


@pytest.mark.parametrize(
    ("x", "axes"),
    [("float[2, 3, 4] x", "-2, -1"), ("float[2, 3, 4, 5, 6] x", "2, 3"), ("float[2, 3, 4, 5, 6] x", "-2, -1")],
)
def test_leaves_other_ranks_alone(x: str, axes: str) -> None:
    text = model(f"y = ReduceMean <axes = [{axes}], keepdims = 0> (x)", x, "float[2, 3] y")
    assert_untouched(LowerReduceMean(), text.replace("[2, 3] y", "[a, b, c] y"), "the rank of its input is")


def test_leaves_an_unknown_rank_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2, 3, 4, 5] x, int64[n] s) => (float[2, 3, 1, 1] y) {
            a = Reshape (x, s)
            y = ReduceMean <axes = [2, 3]> (a)
        }"""
    assert_untouched(LowerReduceMean(), text, "the rank of its input is not known")


@pytest.mark.parametrize(("dtype", "said"), [("int32", "int32"), ("double", "float64")])
def test_leaves_types_alone_that_are_not_pooled(dtype: str, said: str) -> None:
    text = model("y = ReduceMean <axes = [2, 3]> (x)", f"{dtype}[2, 3, 4, 5] x", f"{dtype}[2, 3, 1, 1] y")
    assert_untouched(LowerReduceMean(), text, f"its elements are {said}")


@pytest.mark.parametrize("x", ["float[2, 3, 0, 5] x", "float[2, 0, 4, 5] x"])
def test_leaves_an_image_without_elements_alone(x: str) -> None:
    text = model("y = ReduceMean <axes = [2, 3]> (x)", x, "float[2, c, 1, 1] y")
    assert_untouched(LowerReduceMean(), text, "no elements")


@fuzz(LowerReduceMean())
def test_any_mean_computes_the_same(build: Builder) -> list[str]:
    rank = build.choice([4, 4, 4, 3, 5])
    dtype = build.dtype([np.float32, np.float32, np.float16, np.float64, np.int32])
    below_11 = build.opset < 11
    axes = build.choice([[2, 3], [3, 2], [2, 3] if below_11 else [-2, -1], [1, 2], [2], [1, 2, 3], None])
    # along negative axes onnxruntime 1.31 does not reduce an empty batch; the reference evaluator never does
    may_be_empty = dtype == np.float32 and axes is not None and min(axes) > 0
    x = build.input([build.integer(not may_be_empty, 2), *build.shape((rank - 1, rank - 1))], dtype)
    if build.chance(2):
        x = build.node("Neg", [x])
    keepdims = build.choice([None, 0, 1])
    if build.opset < 18:
        return [build.node("ReduceMean", [x], axes=axes, keepdims=keepdims)]
    noop = build.choice([None, 0, 1])
    inputs = [x] if axes is None else [x, build.constant(np.array(axes, np.int64), overridable=True)]
    return [build.node("ReduceMean", inputs, keepdims=keepdims, noop_with_empty_axes=noop)]
