import numpy as np
import onnx
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.cast_int64 import CastInt64
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = CastInt64()
LAST = 2**63 - 1
TABLE = "float[6, 2] table = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}"


def model(body: str, weights: str = "", x: str = "float[4, 5] x", y: str = "float[n, m] y", opset: int = 17) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}, "mine": 1]>
        g ({x}) => ({y}) {f"<{weights}>" if weights else ""} {{
            {body}
        }}"""


# --- constants ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [7, 17])
def test_constant_indices_of_a_gather_become_int32(opset: int) -> None:
    before = model("y = Gather (x, i)", "int64[2] i = {0, -2}", opset=opset)
    assert_rewrites(PASS, before, model("y = Gather (x, i_int32)", "int32[2] i_int32 = {0, -2}", opset=opset))


def test_a_constant_that_others_need_as_int64_stays_beside_its_copy() -> None:
    def text(index: str, weights: str) -> str:
        return model(f"a = Gather (x, {index}) y = Reshape (a, i)", weights, x="float[9] x")

    weights = "int64[2] i = {1, 2}"
    assert_rewrites(PASS, text("i", weights), text("i_int32", f"{weights}, int32[2] i_int32 = {{1, 2}}"))


def test_two_readers_share_one_copy() -> None:
    def text(index: str, weights: str) -> str:
        return model(f"a = Gather (x, {index}) b = Gather <axis = 1> (x, {index}) y = MatMul (b, a)", weights)

    before = text("i", "int64[2] i = {1, 2}").replace("4, 5", "4, 4")
    assert_rewrites(PASS, before, text("i_int32", "int32[2] i_int32 = {1, 2}").replace("4, 5", "4, 4"))


def test_bounds_of_a_slice_become_int32_and_one_beyond_the_end_still_is() -> None:
    def text(bounds: str, kind: str, end: int, back: int) -> str:
        s, e, a, t = (f"{name}{bounds}" for name in "seat")
        weights = f"{kind}[2] {s} = {{1, {end}}}, {kind}[2] {e} = {{{end}, {back}}}"
        weights += f", {kind}[2] {a} = {{1, 0}}, {kind}[2] {t} = {{1, -1}}"
        return model(f"y = Slice (x, {s}, {e}, {a}, {t})", weights)

    assert_rewrites(PASS, text("", "int64", LAST, -LAST - 1), text("_int32", "int32", 2**31 - 1, -(2**31)))


# --- values that nodes compute ------------------------------------------------------------------------------------


def test_arithmetic_on_a_narrow_type_stays_narrow() -> None:
    before = model("c = Cast <to = 7> (x) d = Mul (c, k) y = Cast <to = 1> (d)", "int64 k = {3}", "uint8[4, 5] x")
    after = model(
        "c = Cast <to = 6> (x) d = Mul (c, k_int32) y = Cast <to = 1> (d)", "int32 k_int32 = {3}", "uint8[4, 5] x"
    )
    assert_rewrites(PASS, before, after)


def test_a_cast_of_int32_is_not_needed_any_more() -> None:
    text = "{} z = Clip ({}, lo{}, hi{}) y = Cast <to = 1> (z)"
    held = "int{0} lo{1} = {{-9}}, int{0} hi{1} = {{9}}"
    before = model(text.format("c = Cast <to = 7> (x)", "c", "", ""), held.format(64, ""), "int32[4, 5] x")
    after = model(text.format("", "x", "_int32", "_int32"), held.format(32, "_int32"), "int32[4, 5] x")
    assert_rewrites(PASS, before, after)


@pytest.mark.parametrize(
    ("op", "count"),
    [
        ("ArgMax <axis = 1, keepdims = 0> (x)", "i"),
        ("NonZero (x)", "i"),
        ("TopK <axis = 1> (x, k)", "v, i"),
        ("Range (r, s, t)", "i"),
    ],
)
def test_a_cast_follows_an_operator_that_counts_within_a_known_size(op: str, count: str) -> None:
    def text(middle: str, one: str, held: str) -> str:
        body = f"{count} = {op} {middle} z = Gather (table, j) y = Flatten <axis = 0> (z)"
        weights = {"k)": "int64[1] k = {2}, ", "t)": "int64 r = {0}, int64 s = {4}, int64 t = {1}, "}.get(op[-2:], "")
        return model(body.replace("one", one), f"{weights}{TABLE}, {held}")

    before = text("j = Add (i, one)", "one", "int64 one = {1}")
    after = text("i_int32 = Cast <to = 6> (i) j = Add (i_int32, one)", "one_int32", "int32 one_int32 = {1}")
    assert_rewrites(PASS, before, after)


def test_a_cast_that_is_there_already_is_used() -> None:
    body = "i = ArgMax <keepdims = 0> (x) c = Cast <to = 6> (i) f = Cast <to = 1> (c)"
    body += " g = Gather (table, {}) s = ReduceMax <keepdims = 0> (f) y = Add (g, s)"
    assert_rewrites(PASS, model(body.format("i"), TABLE), model(body.format("c"), TABLE))


def test_a_cast_to_int32_behind_the_region_goes() -> None:
    before = model("c = Cast <to = 7> (x) n = Neg (c) d = Cast <to = 6> (n) y = Cast <to = 1> (d)", x="int8[4, 5] x")
    assert_rewrites(PASS, before, model("c = Cast <to = 6> (x) n = Neg (c) y = Cast <to = 1> (n)", x="int8[4, 5] x"))


def test_an_unused_node_demands_nothing() -> None:
    before = model(
        "c = Cast <to = 7> (x) u = Neg (c) v = Expand (z, u) y = Cast <to = 1> (c)", "float z = {1}", "int8[2] x"
    )
    before = before.replace("float[n, m] y", "float[2] y")
    applied = apply_pass(PASS, Model(parse(before)))
    assert [node.op_type for node in applied.model.proto.graph.node] == ["Cast", "Cast"]
    assert applied.model.proto.graph.node[0].attribute[0].i == onnx.TensorProto.INT32


def test_a_filled_tensor_becomes_int32() -> None:
    def text(kind: str, name: str) -> str:
        fill = f"s = Shape (x) c = ConstantOfShape <value = {kind}[1] value {{7}}> (s)"
        return model(f"{fill} d = Add (c, {name}) y = Cast <to = 1> (d)", f"{kind} {name} = {{1}}", "float[n, m] x")

    assert_rewrites(PASS, text("int64", "k"), text("int32", "k_int32"))


def test_works_in_bodies_with_a_copy_of_a_constant_for_each() -> None:
    def text(index: str, before: str, then: str, weights: str, inner: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[4, 5] x) => (float[n, m] y) <{weights}> {{
            {before}
            y = If (c) <
                then_branch = t () => (float[n, m] a) {inner} {{ a = {then} }},
                else_branch = e () => (float[n, m] b) {{ b = Gather (x, {index}) }}
            >
        }}"""

    before = text("j", "j = Abs (i)", "Slice (x, i, i, i)", "int64[1] i = {1}", "")
    applied = apply_pass(PASS, Model(parse(before))).model.proto
    left = [info for info in applied.graph.initializer if info.data_type == 7]
    assert not left
    given = {"x": np.arange(20, dtype=np.float32).reshape(4, 5)}
    for branch in (True, False):
        inputs = given | {"c": np.array(branch)}
        np.testing.assert_array_equal(session.run(applied, inputs)["y"], session.run(parse(before), inputs)["y"])


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "x", "unbounded"),
    [
        ("y = Gather (table, x)", "int64[3] x", "nothing bounds the values of 'x'"),
        ("i = ArgMax <axis = 1, keepdims = 0> (x) y = Gather (table, i)", "float[4, m] x", "'i'"),
        ("i = Cast <to = 7> (x) y = Gather (table, i)", "float[3] x", "'i'"),
        ("i = Cast <to = 7> (x) y = Gather (table, i)", "uint32[3] x", "may be from 0 to 4294967295"),
        ("i = mine.Unknown (x) y = Gather (table, i)", "float[3] x", None),
        ("i = Cast <to = 7> (x) j = CumSum (i, k) y = Gather (table, j)", "int8[3] x", "'j'"),
    ],
)
def test_leaves_values_alone_that_nothing_bounds(body: str, x: str, unbounded: str | None) -> None:
    weights = f"{TABLE}, int32 k = {{0}}" if "k)" in body else TABLE
    assert_untouched(PASS, model(body, weights, x, y="float[n, 2] y"), unbounded)


def test_leaves_indices_alone_that_a_caller_may_override() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[4, 5] x, int64[2] i) => (float[n, m] y) <int64[2] i = {0, 1}> {
            y = Gather (x, i)
        }"""
    assert_untouched(PASS, text, "nothing bounds the values of 'i'")


@pytest.mark.parametrize(
    "body",
    [
        "c = Cast <to = 7> (x) a = Mul (c, c) y = Cast <to = 1> (a)",
        "c = Cast <to = 7> (x) a = Mul (c, c) r = Div (a, k) y = Cast <to = 1> (r)",
        "c = Cast <to = 7> (x) a = Abs (c) b = Add (a, k) y = Cast <to = 1> (b)",
    ],
)
def test_leaves_values_alone_that_may_lie_outside_of_int32(body: str) -> None:
    weights = f"int64 k = {{{2**31 - 1}}}" if "k)" in body else ""
    assert_untouched(PASS, model(body, weights, "int32[4, 5] x"), "may be from")


def test_a_product_of_different_signs_is_bounded_by_its_corners() -> None:
    text = model("c = Cast <to = 7> (x) a = Mul (c, k) y = Cast <to = 1> (a)", "int64 k = {-20000000}", "int8[4, 5] x")
    assert_untouched(PASS, text, "may be from -2540000000 to 2560000000")


def test_a_value_of_the_least_int32_is_fine_and_its_opposite_is_not() -> None:
    text = model("c = Cast <to = 7> (x) a = Neg (c) y = Cast <to = 1> (a)", x="int32[4, 5] x")
    assert_untouched(PASS, text, "may be from -2147483647 to 2147483648")


@pytest.mark.parametrize("divisor", ["0", "-1, 1"])
def test_leaves_a_quotient_alone_whose_divisor_may_be_zero(divisor: str) -> None:
    count = len(divisor.split(","))
    text = model(
        "c = Cast <to = 7> (x) a = Div (c, k) y = Cast <to = 1> (a)",
        f"int64[{count}] k = {{{divisor}}}",
        "int8[4, 2] x",
    )
    assert_untouched(PASS, text, "nothing bounds the values of 'a'")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("c = Cast <to = 7> (x) y = Expand (z, c)", "Expand 'y' reads 'c' as int64"),
        ("c = Cast <to = 7> (x) d = Add (c, c) y = Expand (z, d)", "reads 'd' as int64"),
    ],
)
def test_leaves_alone_what_must_be_read_as_int64(body: str, reason: str) -> None:
    assert_untouched(PASS, model(body, "float[1] z = {1}", "int8[2] x"), reason)


def test_leaves_an_output_of_the_model_alone_and_what_it_is_made_of() -> None:
    text = model("c = Cast <to = 7> (x) y = Add (c, c)", x="int8[4, 5] x", y="int64[4, 5] y")
    assert_untouched(PASS, text, "'y' is a graph output")
    assert_untouched(PASS, text, "Add 'y' reads 'c' as int64")


@pytest.mark.parametrize("op", ["Min", "Max"])
def test_leaves_operators_alone_that_have_no_int32_yet(op: str) -> None:
    text = model(f"c = Cast <to = 7> (x) d = {op} (c, c) y = Cast <to = 1> (d)", x="int8[4, 5] x", opset=12)
    assert apply_pass(PASS, Model(parse(text))).model.proto.graph.node[0].attribute[0].i == 6
    assert_untouched(PASS, text.replace('"": 12', '"": 11'), "operator set 11 has no")


def test_leaves_a_slice_alone_whose_end_may_be_reached() -> None:
    def text(size: str) -> str:
        return model(
            "y = Slice (x, s, e, a)",
            f"int64[1] s = {{1}}, int64[1] e = {{{LAST}}}, int64[1] a = {{-1}}",
            f"float[4, {size}] x",
        )

    assert_untouched(PASS, text("m"), f"it reaches from 1 to {LAST} on axis -1")
    assert apply_pass(PASS, Model(parse(text("5")))).skips == ()


def test_leaves_a_slice_alone_whose_bounds_are_computed() -> None:
    text = model("c = Cast <to = 7> (s) y = Slice (x, c, c)", x="float[4, 5] x, int8[1] s")
    assert_untouched(PASS, text, "its bounds are not constant")


def test_leaves_a_step_alone_that_does_not_fit() -> None:
    weights = f"int64[1] s = {{0}}, int64[1] e = {{4}}, int64[1] a = {{0}}, int64[1] t = {{{2**40}}}"
    assert_untouched(PASS, model("y = Slice (x, s, e, a, t)", weights), f"its step is {2**40}")


def test_leaves_arithmetic_on_a_shape_alone() -> None:
    text = model("s = Shape (x) t = Add (s, s) y = Cast <to = 1> (t)", y="float[2] y")
    assert_untouched(PASS, text, "'s' stays int64")


def test_keep_names_operators_that_stay() -> None:
    text = model("y = Gather (x, i)", "int64[2] i = {0, 1}")
    assert_untouched(CastInt64(keep=("Gather",)), text, "Gather is to be kept")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    assert_untouched(PASS, model("y = mine.Gather (x, i)", "int64[2] i = {0, 1}"), None)


def test_leaves_operator_sets_before_7_alone() -> None:
    assert_untouched(PASS, model("y = Gather (x, i)", "int64[2] i = {0, 1}", opset=6), "6 is too old")


# --- any graph ----------------------------------------------------------------------------------------------------


def source(build: Builder, size: int) -> str:
    """Add some int64 of the shape [size]."""
    kinds = ["int8", "uint8", "int32", "bool", "float32", "int64", "constant", "counted", "filled", "shape"]
    kind = build.choice([*kinds, *(["best"] if build.opset >= 10 else []), *(["range"] if build.opset >= 11 else [])])
    if kind == "constant":
        spread = build.choice([1, 1, 1, 2**10, 2**28, 2**29, 2**33])
        return build.constant(build.values([size], np.int64) * spread, overridable=True)
    if kind == "counted":
        rows = build.input([size, build.integer(1, 4)])
        return build.node(build.choice(["ArgMax", "ArgMin"]), [rows], axis=1, keepdims=0)
    if kind == "filled":
        value = onnx.numpy_helper.from_array(np.array([build.choice([0, 3, -2, 2**31])]))
        return build.node("ConstantOfShape", [build.constant(np.array([size]))], value=value)
    if kind == "shape":
        return build.node("Shape", [build.input(build.shape((size, size)))])
    if kind == "best":
        return build.node("TopK", [build.input([size]), build.constant(np.array([size]))], outputs=2)[1]
    if kind == "range":
        return build.node("Range", [build.constant(np.array(bound)) for bound in (0, size, 1)])
    given = build.input([size], np.dtype(kind))
    return given if kind == "int64" else build.node("Cast", [given], to=onnx.TensorProto.INT64)


def step(build: Builder, tensors: list[str], size: int) -> str:
    """Add a node that computes another int64 of the shape [size]."""
    op = build.choice(
        ["Add", "Sub", "Mul", "Min", "Max", "Div", "Mod", "Neg", "Abs", "Clip", "Where", "Gather", "Concat"]
    )
    a, b = build.choice(tensors), build.choice(tensors)
    if op in ("Div", "Mod"):
        divisor = build.constant(np.array(build.choice([3, -2, 2**20, -1])))
        return build.node(op, [a, divisor], fmod=build.choice([None, 1]) if op == "Mod" else None)
    if op in ("Neg", "Abs"):
        return build.node(op, [a])
    if op == "Clip":
        bounds = [build.choice(["", build.constant(np.array(bound))]) for bound in (-2, 3)]
        return build.node(op, [a, *bounds])
    if op == "Where":
        return build.node(op, [build.input([size], np.bool_), a, b])
    if op == "Gather":
        return build.node(op, [a, build.constant(np.arange(size)[::-1].copy())])
    if op == "Concat":
        both = build.node(op, [a, b], axis=0)
        return build.node("Gather", [both, build.constant(np.arange(size) * build.choice([1, -1]))])
    return build.node(op, [a, b])


def sink(build: Builder, tensor: str, size: int) -> str:
    """Add a node that reads an int64 of the shape [size]."""
    op = build.choice(["Cast", "Cast", "Gather", "Less", "Equal", "Expand", "Identity", "Slice", "ScatterElements"])
    if op == "Cast":
        return build.node(op, [tensor], to=build.choice([onnx.TensorProto.FLOAT, onnx.TensorProto.INT32]))
    if op in ("Less", "Equal"):
        return build.node(op, [tensor, build.constant(np.array(build.choice([0, 1, 2**40])))])
    if op == "Expand":
        shape = build.node("Mod", [tensor, build.constant(np.array(3))])
        return build.node(op, [build.input([1]), shape])
    if op == "Gather":
        place = build.node("Mod", [tensor, build.constant(np.array(size))])
        return build.node(op, [build.input([size, 2]), place])
    if op == "Slice":
        ends = build.constant(np.array([build.choice([2, -1, 2**63 - 1, 2**31])]))
        steps = [build.constant(np.array([0])), build.constant(np.array([build.choice([1, 2])]))]
        return build.node(
            op, [build.choice([tensor, build.input([size])]), build.constant(np.array([0])), ends, *steps]
        )
    if op == "ScatterElements":
        return build.node(op, [build.input([size]), build.constant(np.arange(size)), build.input([size])])
    return build.node(op, [tensor])


@fuzz(CastInt64())
def test_any_integers_stay_the_same(build: Builder) -> list[str]:
    size = build.integer(1, 4)
    tensors = [source(build, size) for _ in range(build.integer(1, 2))]
    for _ in range(build.integer(0, 4)):
        tensors.append(step(build, tensors, size))
    return [
        sink(build, tensors[-1], size),
        *(sink(build, build.choice(tensors), size) for _ in range(build.choice([0, 0, 1]))),
    ]
