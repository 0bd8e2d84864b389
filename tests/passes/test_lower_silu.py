import numpy as np
import pytest

from graphsurgery.passes.lower_silu import LowerSilu
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = LowerSilu()
HEAD = '<ir_version: 10, opset_import: ["": 24, "mine": 1]>'


def model(body: str, weights: str = "", kind: str = "float") -> str:
    return f"""
        {HEAD}
        g ({kind}[n, 3] x) => ({kind}[n, 3] y) {f"<{weights}>" if weights else ""} {{
            {body}
        }}"""


@pytest.mark.parametrize("kind", ["float", "float16", "bfloat16"])
@pytest.mark.parametrize("swish", ["Swish (x)", "Swish <alpha = 1.0> (x)"])
def test_becomes_a_sigmoid_and_a_product(kind: str, swish: str) -> None:
    before = model(f"a = {swish} y = Identity (a)", kind=kind)
    after = model("a_gate = Sigmoid (x) a = Mul (x, a_gate) y = Identity (a)", kind=kind)
    if kind == "bfloat16":  # ONNX Runtime has no Swish of it
        assert_rewrites(PASS, before, after, outputs_agree=False)
    else:
        assert_rewrites(PASS, before, after)


@pytest.mark.parametrize(("kind", "alpha"), [("float", "1.5"), ("float16", "15872"), ("float", "-0.5")])
def test_alpha_becomes_a_factor_of_the_type_of_the_elements(kind: str, alpha: str) -> None:
    before = model(f"y = Swish <alpha = {alpha if kind == 'float' else 1.5}> (x)", kind=kind)
    after = model(
        "y_scaled = Mul (x, y_alpha) y_gate = Sigmoid (y_scaled) y = Mul (x, y_gate)",
        f"{kind} y_alpha = {{{alpha}}}",
        kind,
    )
    assert_rewrites(PASS, before, after)


def test_works_inside_an_if_body_and_where_the_output_is_shared() -> None:
    def body(op: str) -> str:
        return f"""
        {HEAD}
        g (bool c, float[n, 3] x) => (float[n, 3] y) {{
            y = If (c) <
                then_branch = t () => (float[n, 3] d) {{ {op} b = Neg (a) d = Add (a, b) }},
                else_branch = e () => (float[n, 3] e) {{ e = Neg (x) }}
            >
        }}"""

    inputs = {"c": np.array(True), "x": np.float32([[1, -2, 3]])}
    assert_rewrites(PASS, body("a = Swish (x)"), body("a_gate = Sigmoid (x) a = Mul (x, a_gate)"), inputs)


def test_leaves_alpha_alone_where_it_cannot_be_written_in_the_type() -> None:
    assert_untouched(PASS, model("y = Swish <alpha = 1.5> (x)", kind="bfloat16"), "elements are bfloat16")
    text = model("a = mine.Unknown (x) b = Swish <alpha = 1.5> (a) y = mine.Unknown (b)")
    assert_untouched(PASS, text, "of unknown type")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    assert_untouched(PASS, model("y = mine.Swish (x)"), None)


@fuzz(LowerSilu(), opsets=(24, 25))
def test_any_swish_computes_the_same(build: Builder) -> list[str]:
    x = build.input(build.shape(), build.dtype([np.float32, np.float16]))
    return [build.node("Swish", [x], alpha=build.choice([None, 1.0, 1.702, 0.0, -1.0]))]
