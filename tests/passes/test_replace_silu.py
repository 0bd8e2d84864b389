import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.replace_silu import ReplaceSilu
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = ReplaceSilu()
SIXTH = "alpha = 0.1666666716337204, beta = 0.5"
SILU = "s = Sigmoid (x) y = Mul (x, s)"


def model(body: str, kind: str = "float", opset: int = 17, outputs: str = "") -> str:
    return f"""
        <ir_version: {10 if opset > 21 else 8}, opset_import: ["": {opset}, "mine": 1]>
        g ({kind}[n, 3] x) => ({kind}[n, 3] y{outputs}) {{
            {body}
        }}"""


@pytest.mark.parametrize("kind", ["float", "float16"])
@pytest.mark.parametrize("body", [SILU, "s = Sigmoid (x) y = Mul (s, x)"])
def test_becomes_hardswish(kind: str, body: str) -> None:
    assert_rewrites(PASS, model(body, kind), model("y = HardSwish (x)", kind))


@pytest.mark.parametrize("opset", [9, 13])
def test_becomes_a_hard_sigmoid_and_a_product_where_there_is_no_hardswish(opset: int) -> None:
    after = model(f"y_gate = HardSigmoid <{SIXTH}> (x) y = Mul (x, y_gate)", opset=opset)
    assert_rewrites(PASS, model(SILU, opset=opset), after)


def test_swish_becomes_hardswish_too() -> None:
    assert_rewrites(PASS, model("y = Swish (x)", opset=24), model("y = HardSwish (x)", opset=24))


def test_swish_with_another_slope_becomes_a_hard_sigmoid_and_a_product() -> None:
    after = model("y_gate = HardSigmoid <alpha = 0.25, beta = 0.5> (x) y = Mul (x, y_gate)", opset=24)
    assert_rewrites(PASS, model("y = Swish <alpha = 1.5> (x)", opset=24), after)


def test_differs_by_no_more_than_the_docstring_says() -> None:
    before = Model(parse(model(SILU)))
    x = np.linspace(-12, 12, 3 * 9001, dtype=np.float32).reshape(-1, 3)
    got, wanted = (session.run(m.proto, {"x": x})["y"] for m in (apply_pass(PASS, before).model, before))
    assert 0.142 < np.abs(got - wanted).max() < 0.1423


def test_works_inside_an_if_body_with_the_sigmoid_outside() -> None:
    def body(outer: str, op: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[n, 3] x) => (float[n, 3] y) {{
            {outer}
            y = If (c) <
                then_branch = t () => (float[n, 3] a) {{ a = {op} }},
                else_branch = e () => (float[n, 3] b) {{ b = Neg (x) }}
            >
        }}"""

    assert_rewrites(PASS, body("s = Sigmoid (x)", "Mul (x, s)"), body("", "HardSwish (x)"))


@pytest.mark.parametrize("pattern", ["y", "layer1/*"])
def test_leaves_what_is_excluded_by_name_alone(pattern: str) -> None:
    before = parse(model(SILU))
    before.graph.node[1].name = "layer1/Mul"
    assert_untouched(ReplaceSilu(exclude=(pattern,)), before, "excluded by name")


def test_leaves_a_sigmoid_that_is_read_elsewhere_alone() -> None:
    reason = "what the Sigmoid writes is read elsewhere too"
    assert_untouched(PASS, model(SILU, outputs=", float[n, 3] s"), reason)
    assert_untouched(PASS, model(f"{SILU} z = Neg (s)", outputs=", float[n, 3] z"), reason)


def test_leaves_other_types_alone() -> None:
    assert_untouched(PASS, model(SILU, "double"), "float64")
    assert_untouched(PASS, model(SILU, "bfloat16"), "bfloat16")
    text = model("a = mine.Unknown (x) s = Sigmoid (a) b = Mul (a, s) y = mine.Unknown (b)")
    assert_untouched(PASS, text, "of unknown type")


@pytest.mark.parametrize("alpha", ["0.0", "-1.0"])
def test_leaves_a_slope_that_is_not_positive_alone(alpha: str) -> None:
    assert_untouched(PASS, model(f"y = Swish <alpha = {alpha}> (x)", opset=24), f"alpha is {float(alpha):g}")


@pytest.mark.parametrize(
    "body",
    [
        "s = Sigmoid (x) n = Neg (x) y = Mul (n, s)",
        "s = Sigmoid (x) y = Mul (s, s)",
        "s = mine.Sigmoid (x) y = Mul (x, s)",
        "s = Sigmoid (x) y = Add (x, s)",
    ],
)
def test_other_products_are_none_of_its_business(body: str) -> None:
    assert_untouched(PASS, model(body), None)


@fuzz(ReplaceSilu(), opsets=(9, 13, 14, 17, 21, 24))
def test_any_silu_leaves_a_model_that_runs(build: Builder) -> list[str]:
    x = build.input(build.shape(), build.dtype([np.float32, np.float16, np.float64]))
    if build.opset >= 24 and build.chance(2):
        return [build.node("Swish", [x], alpha=build.choice([None, 1.0, 1.5, -1.0]))]
    parts = [x, build.node("Sigmoid", [build.node("Neg", [x]) if build.chance(6) else x])]
    return [build.node("Mul", parts[:: build.choice([1, -1])])]
