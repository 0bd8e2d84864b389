import numpy as np

from graphsurgery.passes.lower_hardsigmoid import LowerHardsigmoid
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = LowerHardsigmoid()


def model(body: str, weights: str = "", opset: int = 17, kind: str = "float") -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}, "mine": 1]>
        g ({kind}[n, 3] x) => ({kind}[n, 3] y) <{weights}> {{ {body} }}"""


def test_becomes_a_line_that_is_cut_off() -> None:
    after = model(
        "y_scaled = Mul (x, y_alpha) y_shifted = Add (y_scaled, y_beta) y = Clip (y_shifted, y_low, y_high)",
        "float y_alpha = {0.5}, float y_beta = {0.25}, float y_low = {0}, float y_high = {1}",
    )
    before = model("y = HardSigmoid <alpha = 0.5, beta = 0.25> (x)")
    value = np.array([[-3, 0, 0.5], [1.5, 3, np.inf]], np.float32)
    assert_rewrites(PASS, before, after, {"x": value})


def test_bounds_are_attributes_before_operator_set_11() -> None:
    after = model(
        "y_scaled = Mul (x, y_alpha) y_shifted = Add (y_scaled, y_beta) y = Clip <min = 0.0, max = 1.0> (y_shifted)",
        "float y_alpha = {0.2}, float y_beta = {0.5}",
        opset=10,
    )
    assert_rewrites(PASS, model("y = HardSigmoid (x)", opset=10), after)


def test_leaves_one_alone_whose_clip_onnxruntime_lacks() -> None:
    before = model("y = HardSigmoid (x)", opset=11, kind="double")
    assert_untouched(PASS, before, "there is no Clip of float64 in operator set 11")


def test_leaves_an_operator_set_without_broadcasting_alone() -> None:
    assert_untouched(PASS, model("y = HardSigmoid (x)", opset=6), "operator set 6 doesn't broadcast")


def test_leaves_elements_of_unknown_type_and_other_domains_alone() -> None:
    assert_untouched(PASS, model("a = mine.Foo (x) y = HardSigmoid (a)"), "of unknown type")
    assert_untouched(PASS, model("y = mine.HardSigmoid (x)"), None)


@fuzz(PASS)
def test_any_hardsigmoid_computes_the_same(build: Builder) -> list[str]:
    x = build.input(build.shape(), build.dtype([np.float32, np.float16]), scale=0.5)
    return [build.node("HardSigmoid", [x], alpha=build.choice([None, 0.5, -1.0]), beta=build.choice([None, 0.0]))]
