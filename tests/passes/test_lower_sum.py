import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.lower_sum import LowerSum
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

INPUTS = "float[2, 3] a, float[2, 3] b, float[3] c, float[2, 1] d"


def model(nodes: str, opset: int = 17, inputs: str = INPUTS) -> str:
    return f'<ir_version: 8, opset_import: ["": {opset}, "my": 1]> g ({inputs}) => (float[2, 3] y) {{ {nodes} }}'


@pytest.mark.parametrize("opset", [8, 13, 17])
def test_two_become_one_add(opset: int) -> None:
    assert_rewrites(LowerSum(), model("y = Sum (a, c)", opset), model("y = Add (a, c)", opset))


def test_more_become_a_chain_in_their_order() -> None:
    after = "y_partial = Add (d, c)  y_partial_2 = Add (y_partial, b)  y = Add (y_partial_2, a)"
    assert_rewrites(LowerSum(), model("y = Sum (d, c, b, a)"), model(after))


def test_one_is_passed_by() -> None:
    assert_rewrites(LowerSum(), model("r = Relu (a)  s = Sum (r)  y = Neg (s)"), model("r = Relu (a)  y = Neg (r)"))


def test_one_between_an_input_and_an_output_becomes_an_identity() -> None:
    assert_rewrites(LowerSum(), model("y = Sum (a)"), model("y = Identity (a)"))


@pytest.mark.parametrize("kind", ["float", "float16", "double"])
def test_the_order_is_that_of_onnx_runtime_bit_for_bit(kind: str) -> None:
    names = "abcdefg"
    shapes = [[7, 33], [33], [7, 1], [7, 33], [1, 33], [1], [7, 33]]
    inputs = ", ".join(f"{kind}{shape} {name}" for name, shape in zip(names, shapes, strict=True))
    header = f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => ({kind}[7, 33] y)'
    before = Model(parse(f"{header} {{ y = Sum ({', '.join(names)}) }}"))
    after = apply_pass(LowerSum(), before).model
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[kind]
    draw = np.random.default_rng(0)
    given = {
        name: (draw.standard_normal(shape) * 10.0 ** draw.integers(-3, 3)).astype(dtype)
        for name, shape in zip(names, shapes, strict=True)
    }
    np.testing.assert_array_equal(session.run(after.proto, given)["y"], session.run(before.proto, given)["y"])


def test_leaves_an_operator_set_that_does_not_broadcast_alone() -> None:
    assert_untouched(LowerSum(), model("y = Sum (a, b)", opset=6), "operator set 6 doesn't broadcast")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    assert_untouched(LowerSum(), model("y = my.Sum (a, b)"), None)


@fuzz(LowerSum())
def test_any_sum_computes_the_same(build: Builder) -> list[str]:
    shape, kind = build.shape(), build.dtype()
    shapes = [shape]
    for _ in range(build.integer(0, 4)):
        shapes.append([1 if build.chance(3) else size for size in shape][build.integer(0, len(shape)) :])
    terms = [build.weight(each, kind) if build.chance(4) else build.input(each, kind) for each in shapes]
    return [build.node("Sum", terms if build.chance(2) else terms[::-1])]
