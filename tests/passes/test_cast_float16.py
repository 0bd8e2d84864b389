import numpy as np
import onnx
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.cast_float16 import CastFloat16
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

PASS = CastFloat16()


def model(
    body: str, weights: str = "", x: str = "float[1, 2, 4, 4] x", y: str = "float[n, c, h, w] y", opset: int = 17
) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}, "mine": 1]>
        g ({x}) => ({y}) {f"<{weights}>" if weights else ""} {{
            {body}
        }}"""


def bits(*values: float) -> str:
    """ONNX's text holds float16 as its bits."""
    return f"{{{', '.join(str(np.float16(value).view(np.uint16)) for value in values)}}}"


# --- the ends and the kept ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [7, 13, 21])
def test_computes_in_float16_between_casts(opset: int) -> None:
    before = model("a = Relu (x) y = Sigmoid (a)", opset=opset)
    body = "x_float16 = Cast <to = 10> (x) a = Relu (x_float16) y_float16 = Sigmoid (a) y = Cast <to = 1> (y_float16)"
    assert_rewrites(PASS, before, model(body, opset=opset), outputs_agree=False)


def test_inputs_and_outputs_become_float16_without_keep_io() -> None:
    def text(kind: str, held: str, name: str) -> str:
        x, y = f"{kind}[1, 2, 4, 4] x", f"{kind}[n, c, h, w] y"
        return model(f"a = Relu (x) y = Add (a, {name})", f"{kind} {name} = {held}", x, y)

    after = text("float16", bits(0.5), "k_float16")
    assert_rewrites(CastFloat16(keep_io=False), text("float", "{0.5}", "k"), after, outputs_agree=False)


def test_an_output_of_a_kept_operator_becomes_float16_through_a_cast_without_keep_io() -> None:
    before = model(
        "a = Relu (x) y = CumSum (a, i) z = Neg (y)", "int64 i = {1}", y="float[n, c, h, w] y, float[n, c, h, w] z"
    )
    after = model(
        "a = Relu (x) a_float32 = Cast <to = 1> (a) y_float32 = CumSum (a_float32, i) y = Cast <to = 10> (y_float32)"
        " z = Neg (y)",
        "int64 i = {1}",
        "float16[1, 2, 4, 4] x",
        "float16[n, c, h, w] y, float16[n, c, h, w] z",
    )
    assert_rewrites(CastFloat16(keep_io=False), before, after, outputs_agree=False)


def test_an_output_that_others_read_is_read_as_float16() -> None:
    outputs = "float[n, c, h, w] a, float[n, c, h, w] y"
    body = "x_float16 = Cast <to = 10> (x) a_float16 = Relu (x_float16) y_float16 = Neg (a_float16)"
    body += " a = Cast <to = 1> (a_float16) y = Cast <to = 1> (y_float16)"
    assert_rewrites(PASS, model("a = Relu (x) y = Neg (a)", y=outputs), model(body, y=outputs), outputs_agree=False)


def test_kept_operators_compute_in_float32_between_casts_and_no_pair_is_left() -> None:
    weights = "float[0] none = {}, float[4] s = {1, 1, 2, 2}"
    resize = 'Resize <mode = "linear"> ({}, none, s)'
    before = model(f"a = Relu (x) b = {resize.format('a')} c = {resize.format('b')} d = Relu (c) y = Neg (d)", weights)
    applied = apply_pass(PASS, Model(parse(before))).model.proto
    ops = [node.op_type for node in applied.graph.node]
    assert ops == ["Cast", "Relu", "Cast", "Resize", "Resize", "Cast", "Relu", "Neg", "Cast"]
    assert_valid_and_close(before, 1e-2)


@pytest.mark.parametrize("pattern", ["a", "head/*"])
def test_nodes_that_are_excluded_by_name_stay_float32(pattern: str) -> None:
    before = parse(model("a = Exp (x) y = Neg (a)"))
    before.graph.node[0].name = "head/exp"
    after = model(
        "a = Exp (x) a_float16 = Cast <to = 10> (a) y_float16 = Neg (a_float16) y = Cast <to = 1> (y_float16)"
    )
    applied = assert_rewrites(CastFloat16(exclude=(pattern,)), before, after, outputs_agree=False)
    assert [skip.reason for skip in applied.skips] == ["it is excluded by name"]


def test_keep_is_an_option() -> None:
    before = model("y = CumSum (x, i)", "int64 i = {1}")
    after = model(
        "x_float16 = Cast <to = 10> (x) y_float16 = CumSum (x_float16, i) y = Cast <to = 1> (y_float16)",
        "int64 i = {1}",
    )
    assert_rewrites(CastFloat16(keep=()), before, after, outputs_agree=False)
    assert_untouched(PASS, before, "CumSum is to be kept")
    assert_untouched(CastFloat16(keep=("Relu",)), model("y = Relu (x)"), "Relu is to be kept")


def test_scales_of_a_resize_stay_float32() -> None:
    weights = "float[0] none = {}, float[4] s = {1, 1, 2, 2}"
    before = model('y = Resize <mode = "nearest"> (x, none, s)', weights)
    graph = apply_pass(CastFloat16(keep=()), Model(parse(before))).model.proto.graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert kinds == {"s": onnx.TensorProto.FLOAT, "none_float16": onnx.TensorProto.FLOAT16}


# --- weights ------------------------------------------------------------------------------------------------------


def test_weights_become_float16_once_and_stay_float32_where_that_is_read() -> None:
    def text(names: str, held: str) -> str:
        return model(names, held)

    before = text("a = Add (x, k) b = Add (a, k) y = CumSum (k, i)", "float[1, 1, 1, 2] k = {1, 2}, int64 i = {3}")
    before = before.replace("y = CumSum (k, i)", "c = CumSum (k, i) y = Sub (b, c)").replace("4, 4]", "4, 2]")
    after = text(
        "x_float16 = Cast <to = 10> (x) a = Add (x_float16, k_float16) b = Add (a, k_float16) c = CumSum (k, i)"
        " c_float16 = Cast <to = 10> (c) y_float16 = Sub (b, c_float16) y = Cast <to = 1> (y_float16)",
        f"float[1, 1, 1, 2] k = {{1, 2}}, int64 i = {{3}}, float16[1, 1, 1, 2] k_float16 = {bits(1, 2)}",
    ).replace("4, 4]", "4, 2]")
    assert_rewrites(PASS, before, after, outputs_agree=False)


def test_a_weight_beyond_float16_is_cut_off_and_named() -> None:
    before = model("y = Add (x, k)", "float[4] k = {1e9, -1e9, 65504, 1}")
    applied = apply_pass(PASS, Model(parse(before)))
    (weight,) = applied.model.proto.graph.initializer
    assert onnx.numpy_helper.to_array(weight).tolist() == [65504, -65504, 65504, 1]
    assert [skip.reason for skip in applied.skips] == ["2 of 4 values of 'k' lie beyond 65504 and are cut off"]


def test_infinite_and_missing_values_stay_what_they_are() -> None:
    before = parse(model("y = Add (x, k)", "float[4] k = {0, 0, 0, 1}"))
    weight = np.array([np.inf, -np.inf, np.nan, 1e-7], np.float32)
    before.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "k"))
    applied = apply_pass(PASS, Model(before))
    (got,) = applied.model.proto.graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(got), weight.astype(np.float16))
    assert not applied.skips


def test_a_node_stays_float32_whose_constant_would_vanish() -> None:
    assert_untouched(PASS, model("y = Add (x, k)", "float k = {1e-12}"), "'k' would vanish in float16, such as 1e-12")


@pytest.mark.parametrize("op", ["Mul", "Div", "Pow"])
def test_a_node_stays_float32_that_scales_by_a_number_beyond_float16(op: str) -> None:
    assert_untouched(PASS, model(f"y = {op} (x, k)", "float k = {1e6}"), "it scales by values of 'k'")


def test_a_default_that_a_caller_may_override_keeps_its_type() -> None:
    def text(body: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[4] x, float[4] k) => (float[4] y) <float[4] k = {{1, 2, 3, 4}}> {{
            {body}
        }}"""

    body = "x_float16 = Cast <to = 10> (x) k_float16 = Cast <to = 10> (k) y_float16 = Add (x_float16, k_float16)"
    after = text(f"{body} y = Cast <to = 1> (y_float16)")
    assert_rewrites(PASS, text("y = Add (x, k)"), after, outputs_agree=False)
    graph = apply_pass(CastFloat16(keep_io=False), Model(parse(text("y = Add (x, k)")))).model.proto.graph
    assert [info.type.tensor_type.elem_type for info in (*graph.input, *graph.output)] == [10, 1, 10]


# --- casts and fills of the model ---------------------------------------------------------------------------------


def test_a_cast_to_float32_gives_float16_where_nothing_else_is_read() -> None:
    before = model("a = Cast <to = 1> (x) y = Neg (a)", x="uint8[4] x", y="float[4] y")
    after = model(
        "a = Cast <to = 10> (x) y_float16 = Neg (a) y = Cast <to = 1> (y_float16)", x="uint8[4] x", y="float[4] y"
    )
    assert_rewrites(PASS, before, after, outputs_agree=True)


@pytest.mark.parametrize("value", ["", "<value = float[1] value {2}>"])
def test_a_fill_gives_float16_where_nothing_else_is_read(value: str) -> None:
    before = model(f"s = Shape (x) a = ConstantOfShape {value} (s) y = Add (x, a)")
    graph = apply_pass(PASS, Model(parse(before))).model.proto.graph
    assert [node.op_type for node in graph.node].count("Cast") == 2
    assert_valid_and_close(before, 1e-2)


def test_casts_between_the_types_go() -> None:
    before = model("a = Relu (x) b = Cast <to = 10> (a) c = Neg (b) d = Cast <to = 1> (c) y = Abs (d)")
    body = "x_float16 = Cast <to = 10> (x) a = Relu (x_float16) c = Neg (a) y_float16 = Abs (c)"
    assert_rewrites(PASS, before, model(f"{body} y = Cast <to = 1> (y_float16)"), outputs_agree=False)


def test_what_reads_either_type_gets_no_cast() -> None:
    y = "int64[4] y, int32[1, 2, 4, 4] z, float[n, c, h, w] v"
    before = model("a = Relu (x) y = Shape (x) z = Cast <to = 6> (a) v = Neg (a)", y=y)
    graph = apply_pass(PASS, Model(parse(before))).model.proto.graph
    assert [node.op_type for node in graph.node] == ["Cast", "Relu", "Shape", "Cast", "Neg", "Cast"]


# --- bodies -------------------------------------------------------------------------------------------------------

IF = """y = If (c) <
            then_branch = t () => (float[4] a) { a = Neg (%s) },
            else_branch = e () => (float[4] b) { b = Abs (%s) }
        >"""


def test_a_body_stays_float32_and_reads_what_is_float16_through_a_cast() -> None:
    x, y = "bool c, float[4] x", "float[4] z"
    before = model(f"r = Relu (x) {IF % ('r', 'x')} z = Sigmoid (y)", x=x, y=y)
    after = model(
        f"x_float16 = Cast <to = 10> (x) r = Relu (x_float16) r_float32 = Cast <to = 1> (r) {IF % ('r_float32', 'x')}"
        " y_float16 = Cast <to = 10> (y) z_float16 = Sigmoid (y_float16) z = Cast <to = 1> (z_float16)",
        x=x,
        y=y,
    )
    applied = assert_rewrites(PASS, before, after, outputs_agree=False)
    assert "it has bodies, which stay float32" in [skip.reason for skip in applied.skips]


def test_a_node_stays_float32_whose_result_a_body_gives_out() -> None:
    body = IF.replace("(float[4] b) { b = Abs (%s) }", "(float[4] r) { }")
    before = model(f"r = Relu (x) {body % 'r'}", x="bool c, float[4] x", y="float[4] y")
    applied = apply_pass(PASS, Model(parse(before)))
    assert "it writes what a body gives out" in [skip.reason for skip in applied.skips]
    assert "Cast" not in {node.op_type for node in applied.model.proto.graph.node}


# --- other refusals -----------------------------------------------------------------------------------------------


def test_leaves_custom_operators_alone() -> None:
    assert_untouched(PASS, model("y = mine.Relu (x)"), "no standard operator")


def test_leaves_a_node_alone_that_reads_what_nothing_tells_the_type_of() -> None:
    assert_untouched(PASS, model("a = mine.Unknown (x) y = Relu (a)"), "nothing tells the type")


def test_leaves_an_operator_alone_that_has_no_float16() -> None:
    text = model("y = DynamicQuantizeLinear (x)", y="uint8[n, c, h, w] y").replace("y =", "y, s, z =")
    assert_untouched(CastFloat16(keep=()), text, "operator set 17 has no DynamicQuantizeLinear of float16")


def test_leaves_a_float32_alone_that_no_input_decides_about() -> None:
    text = model("y = EyeLike <dtype = 1> (x)", x="int64[4, 4] x", y="float[4, 4] y")
    assert_untouched(PASS, text, "no input decides about the type of 'y'")


def test_leaves_a_node_alone_that_looks_at_bits() -> None:
    text = model("y = BitCast <to = 6> (x)", y="int32[1, 2, 4, 4] y", opset=26)
    assert_untouched(PASS, text, "it looks at bits")


def test_a_cast_stays_whose_reader_wants_float32_by_specification() -> None:
    body = "b = Cast <to = 1> (x) s = Sigmoid (b) y = NonMaxSuppression (b, s, k)"
    before = model(body, "int64 k = {2}", "float16[1, 4, 4] x", "int64[n, 3] y")
    graph = apply_pass(CastFloat16(keep=()), Model(parse(before))).model.proto.graph
    assert graph.node[0].attribute[0].i == onnx.TensorProto.FLOAT


def test_leaves_sequences_alone() -> None:
    text = model("s = SequenceConstruct (x, x) y = SequenceAt (s, i)", "int64 i = {0}")
    assert_untouched(PASS, text, "nothing tells the type")


def test_leaves_a_model_without_float32_alone() -> None:
    assert_untouched(PASS, model("y = Neg (x)", x="float16[4] x", y="float16[4] y"), None)
    assert_untouched(PASS, model("y = Neg (x)", x="double[4] x", y="double[4] y"), None)


def test_leaves_operator_sets_before_7_alone() -> None:
    assert_untouched(PASS, model("y = Relu (x)", opset=6), "6 is too old")


# --- as a whole ---------------------------------------------------------------------------------------------------


def assert_valid_and_close(text: str, tolerance: float, pass_: CastFloat16 = PASS) -> None:
    before = parse(text)
    after = apply_pass(pass_, Model(before)).model.proto
    onnx.checker.check_model(after, full_check=True)
    generator = np.random.default_rng(0)
    given = {
        info.name: generator.standard_normal([dim.dim_value for dim in info.type.tensor_type.shape.dim]).astype("f")
        for info in before.graph.input
    }
    expected, got = session.run(before, given), session.run(after, given)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name].astype(np.float32), value, rtol=tolerance, atol=tolerance)


def test_a_small_network_gives_about_the_same() -> None:
    generator = np.random.default_rng(0)
    w, v = generator.standard_normal((3, 2, 3, 3)), generator.standard_normal((5, 48))
    weights = f"float[3, 2, 3, 3] w = {{{', '.join(map(str, w.ravel()))}}}, "
    weights += (
        f"float[5, 48] v = {{{', '.join(map(str, v.ravel()))}}}, float[3] o = {{1, 1, 1}}, float[3] n = {{0, 0, 0}}"
    )
    body = "a = Conv <pads = [1, 1, 1, 1]> (x, w) b = BatchNormalization (a, o, n, n, o) c = Relu (b) d = Flatten (c)"
    text = model(f"{body} e = Gemm <transB = 1> (d, v) y = Softmax (e)", weights, y="float[1, 5] y")
    assert_valid_and_close(text, 1e-2)
    graph = apply_pass(PASS, Model(parse(text))).model.proto.graph
    assert {tensor.data_type for tensor in graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert [node.op_type for node in graph.node].count("Cast") == 2


@fuzz(lambda build: CastFloat16(exclude=build.choice([(), ("t5", "t8*")])))
def test_any_network_leaves_a_valid_model_that_runs(build: Builder) -> list[str]:
    tensors = [build.input([2, 3, 4, 4]) for _ in range(build.integer(1, 2))]
    if build.chance(3):
        cast = build.node("Cast", [build.input([2, 3, 4, 4], np.uint8)], to=1)
        tensors.append(cast)
    for _ in range(build.integer(1, 6)):
        a, b = build.choice(tensors), build.choice(tensors)
        op = build.choice(
            [
                "Relu",
                "Sigmoid",
                "Add",
                "Mul",
                "Conv",
                "MaxPool",
                "CumSum",
                "Cast",
                "Concat",
                "Identity",
                "TopK",
                "BatchNorm",
            ]
        )
        if op in ("Add", "Mul"):
            weight = build.constant(np.float32(build.choice([0.5, 1e6, 1e-12])), overridable=True)
            tensors.append(build.node(op, [a, build.choice([b, weight])]))
        elif op == "Conv":
            tensors.append(build.node(op, [a, build.weight([3, 3, 1, 1])]))
        elif op == "MaxPool":
            tensors.append(build.node(op, [a], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        elif op == "CumSum":
            tensors.append(build.node(op, [a, build.constant(np.array(1))]) if build.opset >= 11 else a)
        elif op == "Cast":
            there = build.node(op, [a], to=build.choice([1, 10, 11]))
            tensors.append(build.node(op, [there], to=1))
        elif op == "Concat":
            whole = build.node(op, [a, b], axis=1)
            tensors.append(build.node("Gather", [whole, build.constant(np.array([0, 3, 5]))], axis=1))
        elif op == "TopK":
            if build.opset >= 10:
                tensors.append(build.node(op, [a, build.constant(np.array([4]))], outputs=2)[0])
        elif op == "BatchNorm":
            held = [build.weight([3]) for _ in range(3)]
            tensors.append(build.node("BatchNormalization", [a, *held, build.constant(np.ones(3, np.float32))]))
        else:
            tensors.append(build.node(op, [a]))
    return [tensors[-1], *([build.choice(tensors)] if build.chance(3) else [])]
