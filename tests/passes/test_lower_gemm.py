import numpy as np
import pytest

from graphsurgery.passes.lower_gemm import LowerGemm
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

TYPES = "float[2, 3] a, float[3, 2] b, float[2] c"


def model(body: str, inputs: str = TYPES, weights: str = "", opset: int = 17, kind: str = "float") -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({inputs}) => ({kind}[2, 2] y) {weights} {{
            {body}
        }}"""


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 24])
def test_becomes_a_product_and_a_sum(opset: int) -> None:
    after = "y_product = MatMul (a, b)  y = Add (y_product, c)"
    assert_rewrites(LowerGemm(), model("y = Gemm (a, b, c)", opset=opset), model(after, opset=opset))


@pytest.mark.parametrize("gemm", ["Gemm (a, b)", "Gemm (a, b, )", "Gemm <beta: float = 0.0> (a, b, c)"])
def test_becomes_a_product_alone_where_nothing_counts_that_is_added(gemm: str) -> None:
    assert_rewrites(LowerGemm(), model(f"y = {gemm}"), model("y = MatMul (a, b)"))


@pytest.mark.parametrize("c", ["float c", "float[1] c", "float[1, 2] c", "float[2, 1] c", "float[2, 2] c"])
def test_adds_whatever_spreads_over_the_product(c: str) -> None:
    inputs = f"float[2, 3] a, float[3, 2] b, {c}"
    after = "y_product = MatMul (a, b)  y = Add (y_product, c)"
    assert_rewrites(LowerGemm(), model("y = Gemm (a, b, c)", inputs), model(after, inputs))


def test_turns_a_constant_and_what_is_not_one() -> None:
    before = "y = Gemm <transA: int = 1, transB: int = 1> (a, b)"
    after = "y_a = Transpose <perm: ints = [1, 0]> (a)  y = MatMul (y_a, y_b)"
    assert_rewrites(
        LowerGemm(),
        model(before, "float[3, 2] a", "<float[2, 3] b = {1, 2, 3, 4, 5, 6}>"),
        model(after, "float[3, 2] a", "<float[3, 2] y_b = {1, 4, 2, 5, 3, 6}>"),
    )


def test_multiplies_alpha_and_beta_into_constants() -> None:
    before = "y = Gemm <alpha: float = 0.5, beta: float = 3.0> (a, b, c)"
    after = "y_product = MatMul (a, y_b)  y = Add (y_product, y_c)"
    assert_rewrites(
        LowerGemm(),
        model(before, "float[2, 3] a", "<float[3, 2] b = {1, 2, 3, 4, 5, 6}, float[2] c = {1, 2}>"),
        model(after, "float[2, 3] a", "<float[3, 2] y_b = {0.5, 1, 1.5, 2, 2.5, 3}, float[2] y_c = {3, 6}>"),
    )


def test_multiplies_alpha_into_the_other_factor_where_that_is_the_constant() -> None:
    weights = "<float[2, 3] a = {1, 2, 3, 4, 5, 6}>"
    after = "y = MatMul (y_a, b)"
    assert_rewrites(
        LowerGemm(),
        model("y = Gemm <alpha: float = 2.0> (a, b)", "float[3, 2] b", weights),
        model(after, "float[3, 2] b", "<float[2, 3] y_a = {2, 4, 6, 8, 10, 12}>"),
    )


def test_multiplies_by_alpha_and_beta_where_nothing_is_constant() -> None:
    before = "y = Gemm <alpha: float = 0.5, beta: float = 3.0> (a, b, c)"
    after = """
            y_product = MatMul (a, b)
            y_scaled = Mul (y_product, y_alpha)
            y_scaled_c = Mul (c, y_beta)
            y = Add (y_scaled, y_scaled_c)"""
    assert_rewrites(LowerGemm(), model(before), model(after, weights="<float y_beta = {3}, float y_alpha = {0.5}>"))


def test_multiplies_behind_a_product_to_which_nothing_is_added() -> None:
    after = "y_product = MatMul (a, b)  y = Mul (y_product, y_alpha)"
    before = "y = Gemm <alpha: float = 0.5> (a, b)"
    assert_rewrites(LowerGemm(), model(before), model(after, weights="<float y_alpha = {0.5}>"))


def test_does_not_multiply_into_a_weight_that_would_vanish() -> None:
    # a float16 below 2 ** -14 is subnormal and has fewer digits; the text gives 1, 2 ** -13 and 0.25 by their bits
    inputs, weight = "float16[2, 1] a", "float16[1, 2] b = {15360, 2048}"
    before = model("y = Gemm <alpha: float = 0.25> (a, b)", inputs, f"<{weight}>", kind="float16")
    after = "y_product = MatMul (a, b)  y = Mul (y_product, y_alpha)"
    weights = f"<{weight}, float16 y_alpha = {{13312}}>"
    assert_rewrites(LowerGemm(), before, model(after, inputs, weights, kind="float16"))


def test_leaves_a_shared_weight_to_the_others() -> None:
    def both(gemm: str, weights: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2, 2] a) => (float[2, 2] y, float[2, 2] z) <{weights}> {{
            {gemm}
            z = MatMul (a, b)
        }}"""

    b = "float[2, 2] b = {1, 2, 3, 4}"
    after = both("y = MatMul (a, y_b)", f"{b}, float[2, 2] y_b = {{1, 3, 2, 4}}")
    assert_rewrites(LowerGemm(), both("y = Gemm <transB: int = 1> (a, b)", b), after)


def test_turns_a_weight_that_a_caller_may_override_at_run_time() -> None:
    inputs, weights = "float[2, 2] a, float[2, 2] b", "<float[2, 2] b = {1, 2, 3, 4}>"
    after = "y_b = Transpose <perm: ints = [1, 0]> (b)  y = MatMul (a, y_b)"
    assert_rewrites(
        LowerGemm(), model("y = Gemm <transB: int = 1> (a, b)", inputs, weights), model(after, inputs, weights)
    )


def test_integers_are_multiplied_too() -> None:
    inputs = "int32[2, 3] a, int32[3, 2] b"
    before, after = (model(f"y = {op} (a, b)", inputs, kind="int32") for op in ("Gemm", "MatMul"))
    assert_rewrites(LowerGemm(), before, after, outputs_agree=False)  # onnxruntime has no Gemm of integers


def test_works_inside_an_if_body() -> None:
    def body(nodes: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool p, float[2, 3] a, float[3, 2] b, float[2] c) => (float[2, 2] y) {{
            y = If (p) <
                then_branch = t () => (float[2, 2] u) {{ {nodes} }},
                else_branch = e () => (float[2, 2] v) {{ v = MatMul (a, b) }}
            >
        }}"""

    after = "u_product = MatMul (a, b)  u = Add (u_product, c)"
    assert_rewrites(LowerGemm(), body("u = Gemm (a, b, c)"), body(after))


def test_leaves_a_gemm_alone_that_an_add_without_broadcast_would_have_to_replace() -> None:
    before = model("y = Gemm <broadcast: int = 1> (a, b, c)", opset=6)
    assert_untouched(LowerGemm(), before, "operator set is below 7")


def test_leaves_an_alpha_of_zero_alone() -> None:
    assert_untouched(LowerGemm(), model("y = Gemm <alpha: float = 0.0> (a, b, c)"), "alpha is 0")


def test_leaves_integers_alone_that_alpha_would_round() -> None:
    text = model("y = Gemm <alpha: float = 0.5> (a, b)", "int32[2, 3] a, int32[3, 2] b", kind="int32")
    assert_untouched(LowerGemm(), text, "its elements are int32")


def test_leaves_elements_of_unknown_type_alone_that_alpha_would_scale() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2, 3] x) => (float[2, 2] z) {
            a, b = mine.Split (x)
            y = Gemm <alpha: float = 0.5> (a, b)
            z = mine.Join (y)
        }"""
    assert_untouched(LowerGemm(), text, "its elements are of unknown type")


def test_leaves_an_alpha_alone_that_its_type_can_not_hold() -> None:
    text = model("y = Gemm <alpha: float = 1.0e-9> (a, b)", "float16[2, 3] a, float16[3, 2] b", kind="float16")
    assert_untouched(LowerGemm(), text, "too small or too large for float16")


@fuzz(LowerGemm())
def test_any_gemm_is_a_product_and_a_sum(build: Builder) -> list[str]:
    rows, inner, columns = (build.integer(1, 4) for _ in range(3))
    dtype = build.dtype((np.float32, np.float32, np.float64, np.float16, np.int32))
    turns = build.choice([None, 0, 1]), build.choice([None, 0, 1])
    factors = [build.choice([None, 1.0, 0.5, -3.0, 0.1, 0.0]) for _ in range(2)]
    tensor = [build.choice([build.input, build.weight]) for _ in range(3)]
    a = tensor[0]([inner, rows] if turns[0] else [rows, inner], dtype)
    b = tensor[1]([columns, inner] if turns[1] else [inner, columns], dtype)
    shapes = [[columns], [1, columns], [rows, 1], [rows, columns], [1], []]
    inputs = [a, b, tensor[2](build.choice(shapes), dtype)]
    if build.opset >= 11 and build.chance(4):
        inputs = [a, b] if build.chance(2) else [a, b, ""]
    y = build.node("Gemm", inputs, transA=turns[0], transB=turns[1], alpha=factors[0], beta=factors[1])
    return [build.node("Gemm", [y, build.weight([columns, 3], dtype), build.weight([3], dtype)])]
