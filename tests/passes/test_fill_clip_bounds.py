import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.fill_clip_bounds import FillClipBounds
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = FillClipBounds()
# ONNX's text holds a float16 as its bits: those of 65504
LARGEST = {"float": "3.4028234663852886e38", "float16": "31743", "double": "1.7976931348623157e308"}


def clip(inputs: str, weights: str = "", kind: str = "float", opset: int = 17, attributes: str = "") -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({kind}[n, 3] x) => ({kind}[n, 3] y) {f"<{weights}>" if weights else ""} {{
            y = Clip {attributes} ({inputs})
        }}"""


@pytest.mark.parametrize("kind", LARGEST)
def test_writes_the_largest_finite_number_of_the_type(kind: str) -> None:
    low, high = f"{kind} lo = {{0}}", f"{kind} y_max = {{{LARGEST[kind]}}}"
    assert_rewrites(PASS, clip("x, lo", low, kind), clip("x, lo, y_max", f"{low}, {high}", kind))


def test_writes_the_lowest_finite_number_where_the_lower_bound_is_omitted() -> None:
    high, low = "float hi = {6}", f"float y_min = {{-{LARGEST['float']}}}"
    assert_rewrites(PASS, clip("x, , hi", high), clip("x, y_min, hi", f"{high}, {low}"))


@pytest.mark.parametrize(
    ("kind", "lowest", "largest"),
    [
        ("int8", -128, 127),
        ("uint8", 0, 255),
        ("int32", -(2**31), 2**31 - 1),
        ("int64", -(2**63), 2**63 - 1),
        ("uint64", 0, 2**64 - 1),
    ],
)
def test_writes_the_limits_of_integers(kind: str, lowest: int, largest: int) -> None:
    bounds = f"{kind} y_min = {{{lowest}}}, {kind} y_max = {{{largest}}}"
    assert_rewrites(PASS, clip("x", "", kind, 12), clip("x, y_min, y_max", bounds, kind, 12))


@pytest.mark.parametrize("opset", [7, 10])
def test_writes_attributes_before_operator_set_11(opset: int) -> None:
    after = clip("x", opset=opset, attributes=f"<min = 0.0, max = {LARGEST['float']}>")
    assert_rewrites(PASS, clip("x", opset=opset, attributes="<min = 0.0>"), after)


@pytest.mark.parametrize("opset", [9, 11, 17])
def test_infinity_and_nan_come_out_as_before(opset: int) -> None:
    x = np.array([[np.nan, -0.0, np.inf], [-np.inf, 1e30, -1e30]], np.float32)
    model = Model(parse(clip("x", opset=opset)))
    got, wanted = (session.run(m.proto, {"x": x})["y"] for m in (apply_pass(PASS, model).model, model))
    assert got.tobytes() == wanted.tobytes()


def test_leaves_written_bounds_alone_whatever_they_are() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 3] x, float lo) => (float[n, 3] y) <float hi = {6}> {
            y = Clip (x, lo, hi)
        }"""
    assert_untouched(PASS, text, None)
    assert_untouched(PASS, clip("x", opset=9, attributes="<min = 0.0, max = 6.0>"), None)


def test_works_inside_an_if_body() -> None:
    def body(inputs: str, weights: str = "") -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[n, 3] x) => (float[n, 3] y) <float zero = {{0}}> {{
            y = If (c) <
                then_branch = t () => (float[n, 3] a) {weights} {{ a = Clip ({inputs}) }},
                else_branch = e () => (float[n, 3] b) {{ b = Neg (x) }}
            >
        }}"""

    after = body("x, zero, a_max", f"<float a_max = {{{LARGEST['float']}}}>")
    assert_rewrites(PASS, body("x, zero"), after, {"c": np.array(True), "x": np.float32([[1, -2, 3]])})


def test_leaves_elements_of_unknown_type_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[n, 3] x) => (float[n, 3] y) {
            a = mine.Unknown (x)
            b = Clip (a)
            y = mine.Unknown (b)
        }"""
    assert_untouched(PASS, text, "nothing tells the type")


def test_leaves_bfloat16_alone() -> None:
    assert_untouched(PASS, clip("x", kind="bfloat16"), "bfloat16")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[n, 3] x) => (float[n, 3] y) {
            y = mine.Clip (x)
        }"""
    assert_untouched(PASS, text, None)


@fuzz(FillClipBounds())
def test_any_clip_gives_the_same_with_its_bounds_written_out(build: Builder) -> list[str]:
    kinds = [np.float32, np.float16, np.float64]
    kinds += [np.int8, np.uint8, np.int32, np.int64, np.uint32, np.uint64] if build.opset >= 12 else []
    kind = build.dtype(kinds if build.opset >= 11 else kinds[:1])
    x = build.input(build.shape(), kind)
    low, high = build.choice([None, 0, 1]), build.choice([None, 2, 3])
    if build.opset < 11:
        fixed = {name: float(bound) for name, bound in (("min", low), ("max", high)) if bound is not None}
        return [build.node("Clip", [x], **fixed)]
    bounds = ["" if bound is None else build.constant(np.array(bound, kind)) for bound in (low, high)]
    while bounds and not bounds[-1] and build.chance(2):
        bounds.pop()
    return [build.node("Clip", [x, *bounds])]
