import numpy as np
import pytest

from graphsurgery.passes.lower_einsum import LowerEinsum
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = LowerEinsum()


def model(body: str, ends: str, weights: str = "", opset: int = 17) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}, "mine": 1]>
        g {ends} <{weights}> {{ {body} }}"""


def one(equation: str, y: str) -> str:
    return model(f'y = Einsum <equation = "{equation}"> (a)', f"(float[2, 3, 4] a) => ({y})")


def two(equation: str, ends: str) -> str:
    return model(f'y = Einsum <equation = "{equation}"> (a, b)', ends)


def test_a_permutation_is_a_transpose() -> None:
    after = model("y = Transpose <perm = [0, 2, 1]> (a)", "(float[2, 3, 4] a) => (float[2, 4, 3] y)")
    assert_rewrites(PASS, one("bij->bji", "float[2, 4, 3] y"), after)


def test_a_label_that_the_result_lacks_is_summed_over() -> None:
    after = model(
        "y_reducesum = ReduceSum <keepdims = 0> (a, y_axes) y = Transpose <perm = [1, 0]> (y_reducesum)",
        "(float[2, 3, 4] a) => (float[4, 2] y)",
        "int64[1] y_axes = {1}",
    )
    assert_rewrites(PASS, one("bij->jb", "float[4, 2] y"), after)


def test_a_product_of_matrices_is_a_matmul_whatever_the_batch() -> None:
    ends = "(float[n, 2, 3] a, float[n, 3, 4] b) => (float[n, 2, 4] y)"
    assert_rewrites(PASS, two("bij,bjk->bik", ends), model("y = MatMul (a, b)", ends))


def test_without_an_arrow_the_labels_that_appear_once_are_left() -> None:
    ends = "(float[2, 3] a, float[3, 4] b) => (float[2, 4] y)"
    assert_rewrites(PASS, two("ij, jk", ends), model("y = MatMul (a, b)", ends))


def test_groups_of_labels_become_one_axis() -> None:
    ends = "(float[1, 2, 3, 4] a, float[1, 3, 4, 5, 6] b) => (float[1, 2, 3, 5, 6] y)"
    after = model(
        """
        y_left = Transpose <perm = [0, 2, 1, 3]> (a)
        y_right = Reshape (b, y_right_shape)
        y_product = MatMul (y_left, y_right)
        y_reshape = Reshape (y_product, y_shape)
        y = Transpose <perm = [0, 2, 1, 3, 4]> (y_reshape)""",
        ends,
        "int64[4] y_right_shape = {1, 3, 4, 30}, int64[5] y_shape = {1, 3, 2, 5, 6}",
    )
    assert_rewrites(PASS, two("bqnc,bnchw->bqnhw", ends), after)


@pytest.mark.parametrize(
    ("equation", "reason"),
    [
        ("bii->b", "a label twice in one operand"),
        ("...ij->...ji", "is not of one or two operands without ellipsis"),
        ("bij,bjk,bk->bi", "is not of one or two operands without ellipsis"),
    ],
)
def test_leaves_other_equations_alone(equation: str, reason: str) -> None:
    assert_untouched(PASS, one(equation, "float[b] y"), reason)


@pytest.mark.parametrize(
    ("equation", "ends", "reason"),
    [
        ("ij,k->k", "(float[2, 3] a, float[4] b) => (float[4] y)", "'i' is summed over in one operand alone"),
        ("ij,jk->ik", "(float[2, m] a, float[m, 4] b) => (float[2, 4] y)", "not known to be equal"),
        ("ij,k->ijk", "(float[n, 3] a, float[4] b) => (float[n, 3, 4] y)", "a size that a Reshape must be told"),
    ],
)
def test_leaves_sums_and_sizes_that_are_not_known_alone(equation: str, ends: str, reason: str) -> None:
    assert_untouched(PASS, two(equation, ends), reason)


@fuzz(PASS, opsets=(12, 13, 17, 21))
def test_any_einsum_of_two_computes_the_same(build: Builder) -> list[str]:
    sizes = {label: build.integer(1, 4) for label in "abcdef"}
    kinds = {label: build.choice(["left", "right", "batch", "sum"]) for label in sizes}
    left = [x for x, kind in kinds.items() if kind != "right"]
    right = [x for x, kind in kinds.items() if kind != "left"]
    result = [x for x, kind in kinds.items() if kind != "sum"]
    if not left or not right or not result:
        build.reject()
    orders = [
        build.choice([labels, labels[::-1], sorted(labels, key=lambda x: kinds[x])]) for labels in (left, right, result)
    ]
    texts = ["".join(order) for order in orders]
    dtype = build.dtype([np.float32, np.float64])
    operands = [build.input([sizes[x] for x in text], dtype) for text in texts[:2]]
    return [build.node("Einsum", operands, equation=f"{texts[0]},{texts[1]}->{texts[2]}")]


@fuzz(PASS, opsets=(12, 13, 17, 21))
def test_any_einsum_of_one_computes_the_same(build: Builder) -> list[str]:
    labels = "abcd"[: build.integer(1, 4)]
    left = [x for x in labels if build.chance(1)] or [labels[0]]
    text = "".join(build.choice([left, left[::-1]]))
    x = build.input(build.shape(rank=(len(labels), len(labels))))
    return [build.node("Einsum", [x], equation=f"{labels}->{text}")]
