from typing import Any

import numpy as np
import pytest
from drawn_layers import any_conv, any_gemm

from graphsurgery.passes.fold_affine import FoldAffine
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
W = "float[2, 1, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 0, 1, 0, 1, 0, 1, 0, 1}"


def conv(weights: str, nodes: str, x: str = "float[1, 1, 4, 4]", y: str = "float[1, 2, 4, 4]", head: str = HEAD) -> str:
    return f"{head} g ({x} x) => ({y} y) <{weights}> {{ {nodes} }}"


@pytest.mark.parametrize("opset", [7, 9, 13, 22])
def test_folds_what_a_frozen_batch_norm_leaves(opset: int) -> None:
    head = f'<ir_version: 8, opset_import: ["": {opset}]>'
    assert_rewrites(
        FoldAffine(),
        conv(
            f"{W}, float[1, 2, 1, 1] s = {{2, 3}}, float[1, 2, 1, 1] t = {{5, 6}}",
            "h = Conv <pads = [1, 1, 1, 1]> (x, w) m = Mul (h, s) a = Add (t, m) y = Relu (a)",
            head=head,
        ),
        conv(
            "float[2, 1, 3, 3] w_folded = {2, 4, 6, 8, 10, 12, 14, 16, 18, 3, 0, 3, 0, 3, 0, 3, 0, 3}, "
            "float[2] w_bias = {5, 6}",
            "h = Conv <pads = [1, 1, 1, 1]> (x, w_folded, w_bias) y = Relu (h)",
            head=head,
        ),
    )


@pytest.mark.parametrize(
    ("node", "weights", "bias"),
    [
        ("Mul (h, k)", "2, 8", "6, 4"),
        ("Mul (k, h)", "2, 8", "6, 4"),
        ("Div (h, k)", "0.5, 0.5", "1.5, 0.25"),
        ("Add (h, k)", None, "5, 5"),
        ("Add (k, h)", None, "5, 5"),
        ("Sub (h, k)", None, "1, -3"),
        ("Sub (k, h)", "-1, -2", "-1, 3"),
    ],
)
def test_folds_each_operator_with_the_constant_on_either_side(node: str, weights: str | None, bias: str) -> None:
    kept = "float[2, 1, 1] w = {1, 2}"
    folded = kept if weights is None else f"float[2, 1, 1] w_folded = {{{weights}}}"
    assert_rewrites(
        FoldAffine(),
        conv(
            f"{kept}, float[2] b = {{3, 1}}, float[2, 1] k = {{2, 4}}",
            f"h = Conv (x, w, b) y = {node}",
            "float[1, 1, 4]",
            "float[1, 2, 4]",
        ),
        conv(
            f"{folded}, float[2] w_bias = {{{bias}}}",
            f"y = Conv (x, {'w' if weights is None else 'w_folded'}, w_bias)",
            "float[1, 1, 4]",
            "float[1, 2, 4]",
        ),
    )


@pytest.mark.parametrize("shape", ["float", "float[1]", "float[1, 1, 1, 1]"])
def test_a_scalar_folds_and_leaves_a_conv_without_bias_as_it_is(shape: str) -> None:
    assert_rewrites(
        FoldAffine(),
        conv(f"float[2, 1, 1, 1] w = {{1, 2}}, {shape} k = {{4}}", "h = Conv (x, w) y = Div (h, k)"),
        conv("float[2, 1, 1, 1] w_folded = {0.25, 0.5}", "y = Conv (x, w_folded)"),
    )


def test_counts_the_output_channels_of_a_grouped_conv_transpose_group_by_group() -> None:
    assert_rewrites(
        FoldAffine(),
        conv(
            "float[4, 1, 1] w = {1, 2, 3, 4}, float[2, 1] k = {10, 100}",
            "h = ConvTranspose <group = 2> (x, w) y = Mul (h, k)",
            "float[1, 4, 5]",
            "float[1, 2, 5]",
        ),
        conv(
            "float[4, 1, 1] w_folded = {10, 20, 300, 400}",
            "y = ConvTranspose <group = 2> (x, w_folded)",
            "float[1, 4, 5]",
            "float[1, 2, 5]",
        ),
    )


@pytest.mark.parametrize("shape", ["float[2]", "float[1, 2]"])
def test_folds_into_a_gemm_along_its_last_axis(shape: str) -> None:
    assert_rewrites(
        FoldAffine(),
        conv(
            f"float[2, 3] w = {{1, 2, 3, 4, 5, 6}}, float[5, 1] c = {{2, 4, 6, 8, 10}}, {shape} k = {{2, 10}}",
            "h = Gemm <beta = 0.5, transB = 1> (x, w, c) y = Mul (h, k)",
            "float[5, 3]",
            "float[5, 2]",
        ),
        conv(
            "float[2, 3] w_folded = {2, 4, 6, 40, 50, 60}, float[5, 2] w_bias = {2, 10, 4, 20, 6, 30, 8, 40, 10, 50}",
            "y = Gemm <beta = 1.0, transB = 1> (x, w_folded, w_bias)",
            "float[5, 3]",
            "float[5, 2]",
        ),
    )


@pytest.mark.parametrize(("data", "shape"), [("3", "2"), ("5, 3", "1, 2"), ("4, 5, 3", "1, 2"), ("4, 5, 3", "1, 1, 2")])
def test_folds_a_scale_into_a_matmul_along_its_last_axis(data: str, shape: str) -> None:
    result = f"float[{data.removesuffix('3')}2]"
    assert_rewrites(
        FoldAffine(),
        conv(
            f"float[3, 2] w = {{1, 2, 3, 4, 5, 6}}, float[{shape}] k = {{2, 10}}",
            "h = MatMul (x, w) y = Mul (h, k)",
            f"float[{data}]",
            result,
        ),
        conv("float[3, 2] w_folded = {2, 20, 6, 40, 10, 60}", "y = MatMul (x, w_folded)", f"float[{data}]", result),
    )


def test_works_inside_an_if_body() -> None:
    def body(weights: str, nodes: str) -> str:
        return f"""
        {HEAD}
        g (bool t, float[1, 1, 4] x) => (float[1, 2, 4] y) {{
            y = If (t) <
                then_branch = a () => (float[1, 2, 4] p) <{weights}> {{ {nodes} }},
                else_branch = e () => (float[1, 2, 4] q) {{ q = Concat <axis = 1> (x, x) }}
            >
        }}"""

    assert_rewrites(
        FoldAffine(),
        body("float[2, 1, 1] w = {2, 4}, float[2, 1] k = {2, 10}", "h = Conv (x, w) p = Mul (h, k)"),
        body("float[2, 1, 1] w_folded = {4, 40}", "p = Conv (x, w_folded)"),
    )


def test_weights_that_another_conv_shares_stay_as_they_are_for_it() -> None:
    def text(weights: str, nodes: str) -> str:
        return f"""
        {HEAD}
        g (float[1, 1, 4] x) => (float[1, 2, 4] y, float[1, 2, 4] z) <{weights}> {{ {nodes} z = Conv (x, w) }}"""

    shared = "float[2, 1, 1] w = {2, 4}"
    assert_rewrites(
        FoldAffine(),
        text(f"{shared}, float[2, 1] k = {{2, 10}}", "h = Conv (x, w) y = Mul (h, k)"),
        text(f"{shared}, float[2, 1, 1] w_folded = {{4, 40}}", "y = Conv (x, w_folded)"),
    )


C = "float[2, 1, 1, 1] w = {1, 2}"
ONE = "float[1, 1, 1, 1] w = {3}"
TEN = "float[2, 1, 1, 1] w = {1, 10}"


@pytest.mark.parametrize(
    ("weights", "nodes", "y", "reason"),
    [
        # [4] stands along the width, [3, 1, 1, 1] along the batch, [1, 1, 1, 1, 1] adds a dimension
        (f"{C}, float[4] k = {{1, 2, 3, 4}}", "h = Conv (x, w) y = Mul (h, k)", "1, 2, 4, 4", "shape [4] is not one"),
        (f"{C}, float[4, 1] k = {{1, 2, 3, 4}}", "h = Conv (x, w) y = Mul (h, k)", "1, 2, 4, 4", "shape [4, 1]"),
        (f"{C}, float[3, 1, 1, 1] k = {{1, 2, 3}}", "h = Conv (x, w) y = Add (h, k)", "3, 2, 4, 4", "is not one value"),
        (f"{C}, float[1, 1, 1, 1, 1] k = {{2}}", "h = Conv (x, w) y = Mul (h, k)", "1, 1, 2, 4, 4", "is not one value"),
        (f"{ONE}, float[2, 1, 1] k = {{1, 2}}", "h = Conv (x, w) y = Mul (h, k)", "1, 2, 4, 4", "is not one value"),
        (f"{C}, float[2, 1, 1] k = {{1, 2}}", "h = Conv (x, w) y = Div (k, h)", "1, 2, 4, 4", "divided by the output"),
        (f"{C}, float[2, 1, 1] k = {{1, 0}}", "h = Conv (x, w) y = Div (h, k)", "1, 2, 4, 4", "not finite"),
        (f"{TEN}, float k = {{1e38}}", "h = Conv (x, w) y = Mul (h, k)", "1, 2, 4, 4", "leave the range of float32"),
        ("float[2, 1, 1, 1] w = {1, inf}, float k = {2}", "h = Conv (x, w) y = Mul (h, k)", "1, 2, 4, 4", "leave the"),
        ("float k = {2}", "w = Relu (x) h = Conv (x, w) y = Mul (h, k)", "1, 1, 1, 1", "weights of the Conv are not"),
        (f"{C}, float k = {{2}}", "b = Flatten (x) h = Conv (x, w, b) y = Mul (h, k)", "1, 2, 4, 4", "the bias of"),
        ("float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8}, float k = {2}",
         "h = MatMul (x, w) y = Add (h, k)", "1, 1, 4, 4", "a MatMul has no bias"),
        ("float[4] w = {1, 2, 3, 4}, float k = {2}", "h = MatMul (x, w) y = Mul (h, k)", "1, 1, 4", "a vector"),
    ],
)  # fmt: skip
def test_leaves_alone(weights: str, nodes: str, y: str, reason: str) -> None:
    assert_untouched(FoldAffine(), conv(weights, nodes, y=f"float[{y}]"), reason)


def test_leaves_a_matmul_alone_whose_output_the_constant_gives_a_dimension() -> None:
    text = conv(
        "float[3, 2] w = {1, 2, 3, 4, 5, 6}, float[1, 2] k = {2, 10}",
        "h = MatMul (x, w) y = Mul (h, k)",
        "float[3]",
        "float[1, 2]",
    )
    assert_untouched(FoldAffine(), text, "shape [1, 2] is not one value per channel")


@pytest.mark.parametrize(
    ("inputs", "outputs", "weights", "nodes", "reason"),
    [
        ("", ", float[1, 2, 4] z", "float[2, 1, 1] w = {1, 2}, ", "z = Relu (h)", "read elsewhere too"),
        ("", ", float[1, 2, 4] h", "float[2, 1, 1] w = {1, 2}, ", "", "or is a graph output"),
        (", float[2, 1, 1] w = {1, 2}", "", "", "", "weights of the Conv are not constant"),
    ],
)
def test_leaves_a_tensor_that_others_see_alone(
    inputs: str, outputs: str, weights: str, nodes: str, reason: str
) -> None:
    text = f"""{HEAD} g (float[1, 1, 4] x{inputs}) => (float[1, 2, 4] y{outputs}) <{weights}float k = {{2}}> {{
        h = Conv (x, w) y = Mul (h, k) {nodes} }}"""
    assert_untouched(FoldAffine(), text, reason)


@pytest.mark.parametrize("nodes", ["h = Conv (x, w) y = Mul (h, h)", "h = Relu (x) y = Mul (h, w)"])
def test_does_not_look_at_other_multiplications(nodes: str) -> None:
    assert_untouched(FoldAffine(), conv("float[2, 1, 1, 1] w = {1, 2}", nodes), None)


def test_does_not_look_at_a_constant_that_may_be_overridden() -> None:
    text = f"""{HEAD} g (float[1, 1, 4] x, float k = {{2}}) => (float[1, 2, 4] y) <float[2, 1, 1] w = {{1, 2}}> {{
        h = Conv (x, w) y = Mul (h, k) }}"""
    assert_untouched(FoldAffine(), text, None)


def any_layer(build: Builder, dtype: np.dtype[Any]) -> tuple[str, list[int], int]:
    draw = build.choice([any_gemm, any_matmul]) if build.chance(3) else any_conv
    return draw(build, dtype)


def any_matmul(build: Builder, dtype: np.dtype[Any]) -> tuple[str, list[int], int]:
    depth, wide = build.integer(1, 4), build.integer(1, 4)
    x = build.input([*build.shape((0, 3)), depth], dtype)
    return build.node("MatMul", [x, build.weight([*build.choice([[], [], [1]]), depth, wide], dtype)]), [wide], wide


@fuzz(FoldAffine())
def test_any_scale_or_shift_behind_a_layer_computes_the_same(build: Builder) -> list[str]:
    dtype = build.dtype()
    y, per_channel, channels = any_layer(build, dtype)
    for _ in range(build.integer(1, 3)):
        # per channel, scalars, and what only looks like it: along another axis, of a higher rank, of more channels
        shape = build.choice(
            [per_channel, [1, *per_channel], [], [1], [channels], [1, 1, *per_channel], [channels, 1], [2]]
        )
        op = build.choice(["Mul", "Add", "Sub", "Div"])
        if op == "Div":
            by = build.constant(np.full(shape, build.choice([1, 2, -4, 0.5]), dtype))
            y = build.node(op, [y, by])
        else:
            by = build.weight(shape, dtype)
            y = build.node(op, [y, by] if build.chance(2) else [by, y])
    return [y]
