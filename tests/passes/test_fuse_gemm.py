import numpy as np
import pytest

from graphsurgery.passes.fuse_gemm import FuseGemm
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

TYPES = "float[n, 3] a, float[3, 2] b, float[2] c"
PAIR = "p = MatMul (a, b)  y = Add (p, c)"


def model(body: str, inputs: str = TYPES, outputs: str = "float[n, 2] y", opset: int = 17) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({inputs}) => ({outputs}) {{
            {body}
        }}"""


@pytest.mark.parametrize("add", ["Add (p, c)", "Add (c, p)"])
@pytest.mark.parametrize("opset", [7, 9, 13, 24])
def test_a_product_and_a_sum_become_one_layer(add: str, opset: int) -> None:
    before = model(f"p = MatMul (a, b)  y = {add}", opset=opset)
    assert_rewrites(FuseGemm(), before, model("y = Gemm (a, b, c)", opset=opset))


@pytest.mark.parametrize("c", ["float c", "float[1] c", "float[1, 2] c", "float[1, 1] c", "float[n, 1] c"])
def test_adds_whatever_spreads_over_the_product(c: str) -> None:
    inputs = f"float[n, 3] a, float[3, 2] b, {c}"
    assert_rewrites(FuseGemm(), model(PAIR, inputs), model("y = Gemm (a, b, c)", inputs))


def test_a_sum_of_two_products_takes_the_one_that_nothing_else_reads() -> None:
    inputs, outputs = "float[2, 3] a, float[3, 2] b", "float[2, 2] y, float[2, 2] p"
    before = model("p = MatMul (a, b)  q = MatMul (a, b)  y = Add (p, q)", inputs, outputs)
    assert_rewrites(FuseGemm(), before, model("p = MatMul (a, b)  y = Gemm (a, b, p)", inputs, outputs))


def test_works_inside_an_if_body() -> None:
    def body(nodes: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool k, float[2, 3] a, float[3, 2] b, float[2] c) => (float[2, 2] y) {{
            y = If (k) <
                then_branch = t () => (float[2, 2] u) {{ {nodes} }},
                else_branch = e () => (float[2, 2] v) {{ v = MatMul (a, b) }}
            >
        }}"""

    assert_rewrites(FuseGemm(), body("p = MatMul (a, b)  u = Add (p, c)"), body("u = Gemm (a, b, c)"))


@pytest.mark.parametrize(
    ("body", "outputs"),
    [(PAIR + "  z = Relu (p)", "float[n, 2] y, float[n, 2] z"), (PAIR, "float[n, 2] y, float[n, 2] p")],
)
def test_leaves_a_product_alone_that_is_read_elsewhere(body: str, outputs: str) -> None:
    assert_untouched(FuseGemm(), model(body, outputs=outputs), "read by another node too, or is a graph output")


def test_leaves_a_product_added_to_itself_alone() -> None:
    assert_untouched(FuseGemm(), model("p = MatMul (a, b)  y = Add (p, p)"), "read by another node too")


def test_leaves_a_product_outside_the_body_of_its_sum_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (bool k, float[2, 3] a, float[3, 2] b, float[2] c) => (float[2, 2] y) {
            p = MatMul (a, b)
            y = If (k) <
                then_branch = t () => (float[2, 2] u) { u = Add (p, c) },
                else_branch = e () => (float[2, 2] v) { v = Gemm (a, b, c) }
            >
        }"""
    assert_untouched(FuseGemm(), text, "stands outside this body")


def test_leaves_integers_alone() -> None:
    text = model(PAIR, "int32[n, 3] a, int32[3, 2] b, int32[2] c", "int32[n, 2] y")
    assert_untouched(FuseGemm(), text, "its elements are int32")


def test_leaves_elements_of_unknown_type_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2, 3] x) => (float[2, 2] z) {
            a, b, c = mine.Split (x)
            p = MatMul (a, b)
            y = Add (p, c)
            z = mine.Join (y)
        }"""
    assert_untouched(FuseGemm(), text, "of unknown type")


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ("float[4, n, 3] a, float[3, 2] b, float[2] c", "float[4, n, 2] y", "of rank 3 and rank 2"),
        ("float[3] a, float[3, 2] b, float[2] c", "float[2] y", "of rank 1 and rank 2"),
    ],
)
def test_leaves_factors_alone_that_are_no_matrices(inputs: str, outputs: str, reason: str) -> None:
    assert_untouched(FuseGemm(), model(PAIR, inputs, outputs), reason)


@pytest.mark.parametrize(
    ("c", "y", "reason"),
    [
        ("float[1, 1, 2] c", "float[1, n, 2] y", "of rank 3"),
        ("float[5, 2] c", "float[5, 2] y", "may be larger"),
        ("float[m, 2] c", "float[k, 2] y", "may be larger"),
        ("float[m] c", "float[n, 2] y", "may be larger"),
    ],
)
def test_leaves_a_sum_alone_that_may_be_larger_than_the_product(c: str, y: str, reason: str) -> None:
    assert_untouched(FuseGemm(), model(PAIR, f"float[n, 3] a, float[3, 2] b, {c}", y), reason)


def test_does_not_look_at_a_sum_without_a_product() -> None:
    assert_untouched(FuseGemm(), model("y = Add (a, a)", outputs="float[n, 3] y"), None)


@fuzz(FuseGemm())
def test_any_product_and_sum_is_one_layer(build: Builder) -> list[str]:
    rows, inner, columns = (build.integer(1, 4) for _ in range(3))
    dtype = build.dtype((np.float32, np.float32, np.float64, np.float16, np.int32))
    batch = [2] if build.chance(6) else []
    tensor = [build.choice([build.input, build.weight]) for _ in range(3)]
    a, b = tensor[0]([*batch, rows, inner], dtype), tensor[1]([inner, columns], dtype)
    shapes = [[columns], [1, columns], [rows, 1], [rows, columns], [1], [], [2, rows, columns], [3, columns]]
    c = tensor[2](build.choice(shapes), dtype)
    if build.chance(5):
        c = build.node("MatMul", [a, b])
    pair = [build.node("MatMul", [a, b]), c]
    return [build.node("Add", pair if build.chance(2) else pair[::-1])]
