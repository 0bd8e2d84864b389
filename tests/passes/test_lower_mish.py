import numpy as np

from graphsurgery.passes.lower_mish import LowerMish
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = LowerMish()


def model(body: str) -> str:
    return f"""
        <ir_version: 9, opset_import: ["": 18, "mine": 1]>
        g (float[n, 3] x) => (float[n, 3] y) {{ {body} }}"""


def test_becomes_its_body() -> None:
    after = model("y_softplus = Softplus (x) y_gate = Tanh (y_softplus) y = Mul (x, y_gate)")
    assert_rewrites(PASS, model("y = Mish (x)"), after, {"x": np.array([[-100, -1, 0], [0.5, 3, 90]], np.float32)})


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    assert_untouched(PASS, model("y = mine.Mish (x)"), None)


@fuzz(PASS, opsets=(18, 21, 22))
def test_any_mish_computes_the_same(build: Builder) -> list[str]:
    x = build.input(build.shape(), build.dtype([np.float32, np.float16]))
    return [build.node("Mish", [x])]
