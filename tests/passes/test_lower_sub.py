import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.lower_sub import LowerSub
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz


def model(nodes: str, kind: str = "float", opset: int = 17, constants: str = "") -> str:
    ends = f"({kind}[2, 5] x, {kind}[2, 5] z) => ({kind}[2, 5] y) {constants}"
    return f'<ir_version: 8, opset_import: ["": {opset}]> g {ends} {{ {nodes} }}'


def test_a_constant_is_negated_beforehand() -> None:
    before = model("y = Sub (x, c)", constants="<float c = {1.5}>")
    assert_rewrites(LowerSub(), before, model("y = Add (x, y_minus)", constants="<float y_minus = {-1.5}>"))


def test_any_other_tensor_is_by_a_product() -> None:
    after = model("y_minus = Mul (z, y_minus_one)  y = Add (x, y_minus)", constants="<float y_minus_one = {-1}>")
    assert_rewrites(LowerSub(), model("y = Sub (x, z)"), after)


@pytest.mark.parametrize("kind", ["float", "float16", "double", "int32", "int64"])
def test_the_bits_are_the_same(kind: str) -> None:
    before = Model(parse(model("y = Sub (x, z)", kind)))
    after = apply_pass(LowerSub(), before).model
    dtype = np.dtype({"float": "float32", "double": "float64"}.get(kind, kind))
    if dtype.kind == "f":
        info = np.finfo(dtype)
        values = [0.0, -0.0, np.inf, -np.inf, info.max, info.min, info.tiny, -info.tiny, info.smallest_subnormal, 1.5]
    else:
        values = [0, 1, -1, np.iinfo(dtype).max, np.iinfo(dtype).min, 2, -2, 3, 100, -100]
    x = np.array(values, dtype).reshape(2, 5)
    for shift in range(x.size):
        given = {"x": x, "z": np.roll(x, shift)}
        expected, got = (session.run(each.proto, given)["y"] for each in (before, after))
        # of NaN, Inf less Inf, the sign is nobody's
        assert np.array_equal(np.isnan(expected), np.isnan(got))
        assert expected[~np.isnan(expected)].tobytes() == got[~np.isnan(got)].tobytes()


def test_leaves_unsigned_numbers_and_old_operator_sets_alone() -> None:
    assert_untouched(LowerSub(), model("y = Sub (x, z)", "uint32"), "its elements are uint32, not ")
    assert_untouched(LowerSub(), model("y = Sub (x, z)", opset=6), "operator set 6 doesn't broadcast")


@fuzz(LowerSub())
def test_any_sub_computes_the_same(build: Builder) -> list[str]:
    shape, kind = build.shape(), build.dtype([np.float32, np.float16, np.float64, np.int64])
    x = build.input(shape, kind)
    other = build.choice([shape, shape[1:], [1] * len(shape)])
    z = build.input(other, kind) if build.chance(2) else build.weight(other, kind)
    return [build.node("Sub", [x, z] if build.chance(2) else [z, x])]
