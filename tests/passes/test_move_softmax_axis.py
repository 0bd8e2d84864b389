import pytest

from graphsurgery.passes.move_softmax_axis import MoveSoftmaxAxis
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = MoveSoftmaxAxis()


def model(body: str, opset: int = 17) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}, "mine": 1]>
        g (float[n, 3, 4] x) => (float[n, 3, 4] y) {{ {body} }}"""


@pytest.mark.parametrize("axis", [1, -2])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_the_axis_is_exchanged_with_the_last(op: str, axis: int) -> None:
    after = model(
        "y_transpose = Transpose <perm = [0, 2, 1]> (x) "
        f"y_{op.lower()} = {op} <axis = -1> (y_transpose) y = Transpose <perm = [0, 2, 1]> (y_{op.lower()})"
    )
    assert_rewrites(PASS, model(f"y = {op} <axis = {axis}> (x)"), after)


@pytest.mark.parametrize("axis", ["", "<axis = 2>", "<axis = -1>"])
def test_leaves_the_last_axis_alone(axis: str) -> None:
    assert_untouched(PASS, model(f"y = Softmax {axis} (x)"), None)


def test_leaves_an_unknown_rank_and_an_earlier_operator_set_alone() -> None:
    assert_untouched(PASS, model("a = mine.Foo (x) y = Softmax <axis = 1> (a)"), "the rank of its input is not known")
    assert_untouched(PASS, model("y = Softmax <axis = 1> (x)", opset=11), "works along several axes")


@fuzz(PASS, opsets=(13, 17, 21))
def test_any_softmax_computes_the_same(build: Builder) -> list[str]:
    shape = build.shape(rank=(1, 4))
    axis = build.choice([None, *range(-len(shape), len(shape))])
    return [build.node(build.choice(["Softmax", "LogSoftmax", "Hardmax"]), [build.input(shape)], axis=axis)]
