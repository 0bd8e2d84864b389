import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.lower_clip import LowerClip
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = LowerClip()


def model(node: str, weights: str = "", kind: str = "float", opset: int = 17) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({kind}[n, 3] x) => ({kind}[n, 3] y) {f"<{weights}>" if weights else ""} {{
            y = {node}
        }}"""


@pytest.mark.parametrize("kind", ["float", "float16", "double", "int8", "int32"])
@pytest.mark.parametrize("inputs", ["x, lo", "x, lo, "])
def test_becomes_relu_where_only_what_is_negative_is_cut_off(kind: str, inputs: str) -> None:
    assert_rewrites(PASS, model(f"Clip ({inputs})", f"{kind} lo = {{0}}", kind), model("Relu (x)", "", kind))


def test_becomes_relu_where_the_upper_bound_is_infinite() -> None:
    before = parse(model("Clip (x, lo, hi)", "float lo = {0}, float hi = {6}"))
    before.graph.initializer[1].ClearField("float_data")
    before.graph.initializer[1].raw_data = np.float32(np.inf).tobytes()
    assert_rewrites(PASS, before, model("Relu (x)"))


def test_becomes_relu_where_the_bound_is_a_constant_node_of_one_element() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 3] x) => (float[n, 3] y) {
            lo = Constant <value = float {0}> ()
            y = Clip (x, lo)
        }"""
    assert_rewrites(PASS, text, model("Relu (x)"))


def test_becomes_relu_where_the_bounds_are_attributes() -> None:
    assert_rewrites(PASS, model("Clip <min = 0.0> (x)", opset=9), model("Relu (x)", opset=9))


@pytest.mark.parametrize(
    ("kind", "clip", "weights", "opset"),
    [
        ("float", "Clip (a)", "", 17),
        ("float", "Clip (a)", "", 9),
        ("int64", "Clip (a)", "", 13),
        ("int8", "Clip (a, lo, hi)", "int8 lo = {-128}, int8 hi = {127}", 13),
        ("uint8", "Clip (a, lo)", "uint8 lo = {0}", 13),
    ],
)
def test_is_dropped_where_it_cuts_off_nothing(kind: str, clip: str, weights: str, opset: int) -> None:
    def text(inner: str, held: str = "") -> str:
        return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({kind}[n, 3] x) => ({kind}[n, 3] y) {f"<{held}>" if held else ""} {{
            a = Identity (x)
            {inner}
        }}"""

    assert_rewrites(PASS, text(f"b = {clip} y = Identity (b)", weights), text("y = Identity (a)"))


def test_works_where_other_nodes_read_it_and_it_is_an_output() -> None:
    def text(op: str, weights: str = "") -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 3] x) => (float[n, 3] y, float[n, 3] z) {weights} {{
            y = {op}
            z = Neg (y)
        }}"""

    assert_rewrites(PASS, text("Clip (x, lo)", "<float lo = {0}>"), text("Relu (x)"))


def test_works_inside_an_if_body() -> None:
    def body(op: str, weights: str = "") -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[n, 3] x) => (float[n, 3] y) {weights} {{
            y = If (c) <
                then_branch = t () => (float[n, 3] a) {{ a = {op} }},
                else_branch = e () => (float[n, 3] b) {{ b = Neg (x) }}
            >
        }}"""

    inputs = {"c": np.array(True), "x": np.float32([[1, -2, 3]])}
    assert_rewrites(PASS, body("Clip (x, zero)", "<float zero = {0}>"), body("Relu (x)"), inputs)


def test_nan_and_minus_zero_come_out_as_before() -> None:
    x = np.tile(np.array([[np.nan, -0.0, 0.0, -1, 1, -np.inf, 1e38]], np.float32), (1, 5))
    before = Model(parse(model("Clip (x, lo)", "float lo = {0}").replace("3]", "m]")))
    got, wanted = (session.run(m.proto, {"x": x})["y"] for m in (apply_pass(PASS, before).model, before))
    assert got.tobytes() == wanted.tobytes()


def test_lets_infinity_through_as_the_docstring_says() -> None:
    x = np.float32([[np.inf, 1, 2]])
    before = Model(parse(model("Clip (x, lo)", "float lo = {0}")))
    assert session.run(before.proto, {"x": x})["y"][0, 0] == np.finfo(np.float32).max
    assert session.run(apply_pass(PASS, before).model.proto, {"x": x})["y"][0, 0] == np.inf


@pytest.mark.parametrize(
    ("clip", "weights", "reason"),
    [
        ("Clip (x, lo, hi)", "float lo = {0}, float hi = {6}", "upper bound is 6"),
        ("Clip (x, , hi)", "float hi = {6}", "upper bound is 6"),
        ("Clip (x, lo)", "float lo = {-1}", "lower bound is -1"),
        ("Clip (x, lo)", "float lo = {1}", "lower bound is 1"),
        ("Clip (x, lo, hi)", "float lo = {0}, float hi = {3.4028234663852886e38}", "upper bound is 3.4"),
        ("Clip (x, lo)", "float lo = {-3.4028234663852886e38}", "lower bound is -3.4"),
    ],
)
def test_leaves_other_bounds_alone(clip: str, weights: str, reason: str) -> None:
    assert_untouched(PASS, model(clip, weights), reason)


def test_leaves_a_bound_that_is_not_a_number_alone() -> None:
    before = parse(model("Clip (x, lo, hi)", "float lo = {0}, float hi = {6}"))
    before.graph.initializer[1].ClearField("float_data")
    before.graph.initializer[1].raw_data = np.float32(np.nan).tobytes()
    assert_untouched(PASS, before, "upper bound is nan")


@pytest.mark.parametrize("held", ["", "<float lo = {0}>"])
def test_leaves_a_bound_that_a_caller_gives_alone(held: str) -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 3] x, float lo) => (float[n, 3] y) {held} {{
            y = Clip (x, lo)
        }}"""
    assert_untouched(PASS, text, "not constant")


@pytest.mark.parametrize(("kind", "opset"), [("int8", 13), ("int32", 12), ("int64", 17), ("bfloat16", 17)])
def test_leaves_types_alone_for_which_there_is_no_relu(kind: str, opset: int) -> None:
    assert_untouched(PASS, model("Clip (x, lo)", f"{kind} lo = {{0}}", kind, opset), f"no Relu of {kind}")


def test_leaves_elements_of_unknown_type_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[n, 3] x) => (float[n, 3] y) {
            a = mine.Unknown (x)
            b = Clip (a)
            y = mine.Unknown (b)
        }"""
    assert_untouched(PASS, text, "nothing tells the type")


def test_becomes_an_identity_between_an_input_and_an_output() -> None:
    assert_rewrites(PASS, model("Clip (x)"), model("Identity (x)"))


def test_becomes_max_and_min_where_that_is_asked_for() -> None:
    before = model("Clip (x, lo, hi)", "float lo = {0}, float hi = {6}")
    after = model("Min (y_max, y_high)", "float y_low = {0}, float y_high = {6}")
    assert_rewrites(LowerClip(max_min=True), before, after.replace("y = Min", "y_max = Max (x, y_low)  y = Min"))
    one = model("Clip (x, lo)", "float lo = {-2}")
    assert_rewrites(LowerClip(max_min=True), one, model("Max (x, y_low)", "float y_low = {-2}"))
    assert_rewrites(LowerClip(max_min=True), model("Clip (x, lo)", "float lo = {0}"), model("Relu (x)"))


def test_leaves_what_there_is_no_max_of_alone() -> None:
    small = model("Clip (x, lo)", "int8 lo = {-2}", "int8")
    assert_untouched(LowerClip(max_min=True), small, "there is no Max of int8 in operator set 17")
    old = model("Clip <min = -2.0> (x)", opset=7)
    assert_untouched(LowerClip(max_min=True), old, "there is no Max of float32 in operator set 7")


@fuzz(LowerClip(max_min=True))
def test_any_clip_by_max_and_min_gives_the_same(build: Builder) -> list[str]:
    return drawn(build)


@fuzz(LowerClip())
def test_any_clip_gives_the_same(build: Builder) -> list[str]:
    return drawn(build)


def drawn(build: Builder) -> list[str]:
    kinds = [np.float32, np.float16, np.float64]
    kinds += [np.int8, np.uint8, np.int32, np.int64, np.uint32, np.uint64] if build.opset >= 12 else []
    kind = build.dtype(kinds if build.opset >= 11 else kinds[:1])
    x = build.input(build.shape(), kind)
    if build.chance(2):
        x = build.node("Identity", [x])
    low, high = build.choice([None, 0, 0, 0, 1]), build.choice([None, None, None, 2, "largest"])
    if high == "largest":
        high = float(np.finfo(kind).max) if kind.kind == "f" else int(np.iinfo(kind).max)
    if build.opset < 11:
        fixed = {name: float(bound) for name, bound in (("min", low), ("max", high)) if bound is not None}
        return [build.node("Clip", [x], **fixed)]
    bounds = ["" if bound is None else build.constant(np.array(bound, kind), overridable=True) for bound in (low, high)]
    while bounds and not bounds[-1] and build.chance(2):
        bounds.pop()
    return [
        build.node(
            build.choice(["Neg", "Identity"]) if kind.kind == "f" else "Identity", [build.node("Clip", [x, *bounds])]
        )
    ]
