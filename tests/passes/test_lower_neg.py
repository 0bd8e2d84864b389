import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.lower_neg import LowerNeg
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz


def model(nodes: str, kind: str = "float", opset: int = 17, constants: str = "") -> str:
    ends = f"({kind}[2, 5] x) => ({kind}[2, 5] y) {constants}"
    return f'<ir_version: 8, opset_import: ["": {opset}, "my": 1]> g {ends} {{ {nodes} }}'


@pytest.mark.parametrize("opset", [7, 13, 17])
def test_becomes_a_product_by_minus_one(opset: int) -> None:
    after = model("y = Mul (x, y_minus)", opset=opset, constants="<float y_minus = {-1.0}>")
    assert_rewrites(LowerNeg(), model("y = Neg (x)", opset=opset), after)


@pytest.mark.parametrize("kind", ["float", "float16", "double", "int32", "int64"])
def test_the_bits_are_the_same(kind: str) -> None:
    before = Model(parse(model("y = Neg (x)", kind)))
    after = apply_pass(LowerNeg(), before).model
    assert [node.op_type for node in after.proto.graph.node] == ["Mul"]
    dtype = np.dtype({"float": "float32", "double": "float64"}.get(kind, kind))
    if dtype.kind == "f":
        info = np.finfo(dtype)
        values = [0.0, -0.0, np.inf, -np.inf, info.max, info.min, info.tiny, -info.tiny, info.smallest_subnormal, 1.5]
    else:
        values = [0, 1, -1, np.iinfo(dtype).max, np.iinfo(dtype).min, 2, -2, 3, 100, -100]
    given = {"x": np.array(values, dtype).reshape(2, 5)}
    expected, got = (session.run(each.proto, given)["y"] for each in (before, after))
    assert expected.tobytes() == got.tobytes()


def test_a_scalar_stays_one() -> None:
    header = '<ir_version: 8, opset_import: ["": 17]> g (float x) => (float y)'
    assert_rewrites(
        LowerNeg(), f"{header} {{ y = Neg (x) }}", f"{header} <float y_minus = {{-1.0}}> {{ y = Mul (x, y_minus) }}"
    )


def test_leaves_an_operator_set_that_does_not_broadcast_alone() -> None:
    assert_untouched(LowerNeg(), model("y = Neg (x)", opset=6), "operator set 6 doesn't broadcast")


def test_leaves_small_integers_alone() -> None:
    assert_untouched(LowerNeg(), model("y = Neg (x)", "int8"), "its elements are int8, not ")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    assert_untouched(LowerNeg(), model("y = my.Neg (x)"), None)


@fuzz(LowerNeg())
def test_any_neg_computes_the_same(build: Builder) -> list[str]:
    shape, kind = build.shape(), build.dtype()
    return [build.node("Neg", [build.input(shape, kind)])]
