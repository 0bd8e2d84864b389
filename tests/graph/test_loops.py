import numpy as np
import onnx
import pytest

from graphsurgery.graph.loops import has_unbounded_loop
from graphsurgery.testing import parse

BODY = "<body = b (int64 i, bool d, float[2] a) => (bool e, float[2] s) { e = Identity (d)  s = Neg (a) }>"


def looping(rounds: str, inputs: str = "") -> onnx.ModelProto:
    """A Loop that goes round as often as `n` says, which `rounds` computes."""
    return parse(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[2] x, bool c{inputs}) => (float[2] y) {{
            {rounds}  y = Loop (n, c, x) {BODY} }}"""
    )


SHAPE = "s = Shape (x)  i = Constant <value_int = 0> ()  n = Gather (s, i)"
DOUBLED = "k = Constant <value_int = 4611686018427387904> ()  n = Mul (k, k)"
GROUND = parse(
    f'<ir_version: 8, opset_import: ["": 17]> g (float[2] x, bool c) => (float[2] y) {{ y = Loop (, c, x) {BODY} }}'
)


@pytest.mark.parametrize("rounds", [SHAPE, "n = Constant <value_int = 3> ()", "n = Constant <value = int64 {3}> ()"])
def test_a_loop_over_a_tensor_or_of_few_rounds_ends(rounds: str) -> None:
    assert not has_unbounded_loop(looping(rounds))


@pytest.mark.parametrize(
    "model",
    [
        looping("", ", int64 n"),
        looping("n = Constant <value_int = 4611686018427387904> ()"),
        looping("n = Constant <value = int64 {4611686018427387904}> ()"),
        looping(DOUBLED),
        GROUND,
    ],
    ids=["as often as an input says", "value_int", "value", "computed from constants", "no number of rounds"],
)
def test_a_loop_that_nothing_bounds_is_told(model: onnx.ModelProto) -> None:
    assert has_unbounded_loop(model)


def test_an_initializer_says_how_often() -> None:
    model = looping("", ", int64 n")
    model.graph.input.pop()
    for rounds, unbounded in ((5, False), (1 << 40, True)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(rounds), "n"))
        assert has_unbounded_loop(model) is unbounded
        model.graph.initializer.pop()


def test_a_loop_inside_a_body_and_in_a_function_is_seen() -> None:
    inner = looping("n = Constant <value_int = 4611686018427387904> ()").graph
    outer = parse('<ir_version: 8, opset_import: ["": 17]> g (bool c, float[2] x) => (float[2] y) { y = Identity (x) }')
    body = onnx.helper.make_graph(inner.node, "t", [], inner.output)
    outer.graph.node[0].CopyFrom(onnx.helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body))
    assert has_unbounded_loop(outer)
    function = onnx.helper.make_function("loc", "f", ["c", "x"], ["y"], inner.node, outer.opset_import)
    del outer.graph.node[:]
    outer.functions.append(function)
    assert has_unbounded_loop(outer)
