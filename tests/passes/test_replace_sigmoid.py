import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.replace_sigmoid import ReplaceSigmoid
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = ReplaceSigmoid()
SIXTH = "alpha = 0.1666666716337204, beta = 0.5"


def model(body: str, kind: str = "float", opset: int = 17) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}, "mine": 1]>
        g ({kind}[n, 3] x) => ({kind}[n, 3] y) {{
            {body}
        }}"""


@pytest.mark.parametrize("kind", ["float", "float16"])
@pytest.mark.parametrize("opset", [9, 17, 22])
def test_becomes_the_hard_sigmoid_of_torch(kind: str, opset: int) -> None:
    text = model(f"y = HardSigmoid <{SIXTH}> (x)", kind, opset)
    assert_rewrites(PASS, model("y = Sigmoid (x)", kind, opset), text)


def test_slope_and_offset_are_options() -> None:
    text = model("y = HardSigmoid <alpha = 0.25, beta = 0.375> (x)")
    assert_rewrites(ReplaceSigmoid(alpha=0.25, beta=0.375), model("y = Sigmoid (x)"), text)


def test_differs_by_no_more_than_the_docstring_says() -> None:
    before = Model(parse(model("y = Sigmoid (x)")))
    x = np.linspace(-12, 12, 3 * 9001, dtype=np.float32).reshape(-1, 3)
    got, wanted = (session.run(m.proto, {"x": x})["y"] for m in (apply_pass(PASS, before).model, before))
    assert 0.069 < np.abs(got - wanted).max() < 0.0692


def test_works_inside_an_if_body_and_where_others_read_the_result() -> None:
    def body(op: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[n, 3] x) => (float[n, 3] y) {{
            y = If (c) <
                then_branch = t () => (float[n, 3] d) {{ a = {op} b = Neg (a) d = Add (a, b) }},
                else_branch = e () => (float[n, 3] e) {{ e = Neg (x) }}
            >
        }}"""

    assert_rewrites(PASS, body("Sigmoid (x)"), body(f"HardSigmoid <{SIXTH}> (x)"))


@pytest.mark.parametrize("pattern", ["scores", "sco*", "*/gate"])
def test_leaves_what_is_excluded_by_name_alone(pattern: str) -> None:
    before = parse(model("scores = Sigmoid (x) y = Neg (scores)"))
    before.graph.node[0].name = "head/gate"
    assert_untouched(ReplaceSigmoid(exclude=("other", pattern)), before, "excluded by name")
    assert [node.op_type for node in apply_pass(PASS, Model(before)).model.proto.graph.node] == ["HardSigmoid", "Neg"]


def test_leaves_other_types_alone() -> None:
    assert_untouched(PASS, model("y = Sigmoid (x)", "double"), "float64")
    assert_untouched(PASS, model("y = Sigmoid (x)", "bfloat16"), "bfloat16")
    assert_untouched(PASS, model("a = mine.Unknown (x) b = Sigmoid (a) y = mine.Unknown (b)"), "of unknown type")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    assert_untouched(PASS, model("y = mine.Sigmoid (x)"), None)


@pytest.mark.parametrize(("options", "word"), [({"alpha": 0.0}, "alpha"), ({"beta": 1.0}, "beta must lie")])
def test_refuses_options_that_make_a_constant_of_it(options: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ReplaceSigmoid(**options)  # type: ignore[arg-type]


@fuzz(lambda build: ReplaceSigmoid(alpha=build.choice([1 / 6, 0.2]), exclude=build.choice([(), ("t1",)])))
def test_any_sigmoid_leaves_a_model_that_runs(build: Builder) -> list[str]:
    x = build.input(build.shape(), build.dtype())
    return [build.node("Sigmoid", [build.node("Sigmoid", [x])])]
