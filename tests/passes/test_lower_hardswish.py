import numpy as np
import pytest

from graphsurgery.graph.model import Model
from graphsurgery.passes.fuse_hardswish import FuseHardswish
from graphsurgery.passes.lower_hardswish import LowerHardswish
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = LowerHardswish()
HEAD = '<ir_version: 8, opset_import: ["": 14, "mine": 1]>'
SIXTH = "alpha = 0.1666666716337204, beta = 0.5"


def model(body: str, kind: str = "float") -> str:
    return f"""
        {HEAD}
        g ({kind}[n, 3] x) => ({kind}[n, 3] y) {{
            {body}
        }}"""


@pytest.mark.parametrize("kind", ["float", "float16"])
def test_becomes_a_hard_sigmoid_and_a_product(kind: str) -> None:
    after = model(f"y_gate = HardSigmoid <{SIXTH}> (x) y = Mul (x, y_gate)", kind)
    assert_rewrites(PASS, model("y = HardSwish (x)", kind), after)


def test_works_inside_an_if_body() -> None:
    def body(op: str) -> str:
        return f"""
        {HEAD}
        g (bool c, float[n, 3] x) => (float[n, 3] y) {{
            y = If (c) <
                then_branch = t () => (float[n, 3] a) {{ {op} }},
                else_branch = e () => (float[n, 3] b) {{ b = Neg (x) }}
            >
        }}"""

    after = body(f"a_gate = HardSigmoid <{SIXTH}> (x) a = Mul (x, a_gate)")
    assert_rewrites(PASS, body("a = HardSwish (x)"), after, {"c": np.array(True), "x": np.float32([[1, -2, 3]])})


def test_fusing_brings_it_back() -> None:
    before = Model(parse(model("a = HardSwish (x) y = Neg (a)")))
    there = apply_pass(PASS, before).model
    back = apply_pass(FuseHardswish(), there).model
    assert [node.op_type for node in back.proto.graph.node] == ["HardSwish", "Neg"]


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    assert_untouched(PASS, model("y = mine.HardSwish (x)"), None)


@fuzz(LowerHardswish(), opsets=(14, 17, 21, 22))
def test_any_hardswish_computes_the_same(build: Builder) -> list[str]:
    x = build.input(build.shape(), build.dtype([np.float32, np.float16]))
    return [build.node("HardSwish", [x])]
