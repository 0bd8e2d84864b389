from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from graphsurgery.graph.model import Model
from graphsurgery.passes.fuse_gelu import FuseGelu
from graphsurgery.passes.fuse_layernorm import FuseLayernorm
from graphsurgery.passes.raise_opset import RaiseOpset
from graphsurgery.rewrite import apply_pass, apply_passes
from graphsurgery.testing import assert_rewrites, assert_same_outputs, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz


def model(body: str, opset: int, more: str = "", ir: int = 8, weights: str = "", y: str = "float[2, 3] y") -> str:
    return f"""
        <ir_version: {ir}, opset_import: ["": {opset}, "my": 1, "local": 1]>
        g (float[1, 2, 3] x{more}) => ({y}) {f"<{weights}>" if weights else ""} {{
            {body}
        }}"""


def operators(proto: ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def test_axes_that_were_an_attribute_become_an_input() -> None:
    before = model("y = Squeeze <axes = [0]> (x)", 12)
    after = model("y_Squeeze = Constant <value: tensor = int64[1] {0}> ()  y = Squeeze (x, y_Squeeze)", 20, ir=9)
    assert_rewrites(RaiseOpset(20), before, after)


def test_what_is_the_same_in_both_sets_stays_with_its_notes() -> None:
    before = parse(model("y = Erf (x)", 17, y="float[1, 2, 3] y"))
    before.graph.node[0].metadata_props.add(key="from", value="torch")
    after = apply_pass(RaiseOpset(20), Model(before)).model
    assert after.opset == 20
    assert after.proto.graph.node == before.graph.node


GELU = """
    s = ReduceMean <axes = [-1], keepdims = 1> (x)
    d = Sub (x, s)
    q = Pow (d, two)
    v = ReduceMean <axes = [-1], keepdims = 1> (q)
    e = Add (v, epsilon)
    r = Sqrt (e)
    n = Div (d, r)
    m = Mul (n, gamma)
    l = Add (m, beta)
    w = Div (l, root)
    f = Erf (w)
    a = Add (f, one)
    p = Mul (l, a)
    y = Mul (p, half)"""
CONSTANTS = (
    "float two = {2}, float epsilon = {0.001}, float[3] gamma = {1, 2, 3}, float[3] beta = {0, 1, -1}, "
    "float root = {1.4142135}, float one = {1}, float half = {0.5}"
)


def test_gelu_and_layer_normalisation_are_fused_then() -> None:
    before = parse(model(GELU, 11, weights=CONSTANTS, y="float[1, 2, 3] y"))
    untouched = apply_passes([FuseLayernorm(), FuseGelu()], Model(before)).model
    assert operators(untouched.proto) == operators(before)
    fused = apply_passes([RaiseOpset(20), FuseLayernorm(), FuseGelu()], Model(before)).model
    assert operators(fused.proto) == ["LayerNormalization", "Gelu"]
    assert_same_outputs(before, fused.proto)


def test_nodes_in_bodies_are_converted_and_their_new_names_collide_with_none() -> None:
    body = """y = If (c) <
            then_branch = t () => (float[2, 3] p) { p = Squeeze <axes = [0]> (x) },
            else_branch = e () => (float[2, 3] q) { p_Squeeze = Neg (x)  q = Squeeze <axes = [0]> (p_Squeeze) }>"""
    before = parse(model(body, 11, ", bool c"))
    after = apply_pass(RaiseOpset(17), Model(before)).model
    after.check("after")
    assert after.opset == 17
    for c in (True, False):
        given = {"x": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "c": np.array(c)}
        assert_same_outputs(before, after.proto, given)


def test_operators_of_other_domains_stay() -> None:
    before = parse(model("a = my.Squeeze (x)  y = Squeeze <axes = [0]> (x)  b = Relu (y)  z = my.Gelu (a, b)", 12))
    before.graph.output.add(name="z").type.tensor_type.elem_type = TensorProto.FLOAT
    after = apply_pass(RaiseOpset(20), Model(before)).model.proto
    assert [node for node in after.graph.node if node.domain == "my"] == [before.graph.node[0], before.graph.node[3]]
    assert next((entry.domain, entry.version) for entry in after.opset_import) == ("", 20)


def test_a_default_that_a_caller_may_override_is_no_constant() -> None:
    before = parse(model("y = Reshape (x, sizes)", 12, ", int64[2] sizes", ir=3, weights="int64[2] sizes = {2, 3}"))
    after = apply_pass(RaiseOpset(20), Model(before)).model.proto
    assert [info.name for info in after.graph.input] == ["x", "sizes"]
    assert [tensor.name for tensor in after.graph.initializer] == ["sizes"]
    assert after.ir_version == 9
    assert_same_outputs(before, after)


def test_weights_in_another_file_stay_there(tmp_path: Path) -> None:
    before = parse(model("a = MatMul (x, w)  y = Squeeze <axes = [0]> (a)", 12, weights="float[3, 3] w = {1}"))
    del before.graph.initializer[:]
    values = np.arange(9, dtype=np.float32).reshape(3, 3)
    before.graph.initializer.append(onnx.numpy_helper.from_array(values, "w"))
    path = tmp_path / "m.onnx"
    onnx.save_model(before, path, save_as_external_data=True, location="m.data", size_threshold=0)
    loaded = Model.load(path)
    after = apply_pass(RaiseOpset(20), loaded).model
    assert after.proto.graph.initializer[0].data_location == TensorProto.EXTERNAL
    assert_same_outputs(loaded.with_values_inside().proto, after.with_values_inside().proto)


FUNCTION = '<domain: "local", opset_import: ["": 12]> F (a) => (b) { %s }'


def test_a_function_whose_operators_stay_is_kept() -> None:
    before = parse(model("a = local.F (x)  y = Squeeze <axes = [0]> (a)", 12) + FUNCTION % "b = Sinh (a)")
    after = apply_pass(RaiseOpset(17), Model(before)).model.proto
    assert [entry.version for entry in after.functions[0].opset_import] == [17]
    assert after.functions[0].node == before.functions[0].node
    assert_same_outputs(before, after)


def test_a_function_with_an_operator_that_changes_is_refused() -> None:
    before = model("y = local.F (x)", 12) + FUNCTION % "b = Squeeze <axes = [0]> (a)"
    assert_untouched(
        RaiseOpset(17), before, "function 'F' holds a Squeeze, which changes up to 17; put inline-functions"
    )


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_an_old_resize_keeps_its_coordinates(mode: str) -> None:
    text = f"""
        <ir_version: 5, opset_import: ["": 10]>
        g (float[1, 1, 2, 3] x) => (float[1, 1, 4, 9] y) <float[4] scales = {{1, 1, 2, 3}}> {{
            y = Resize <mode = "{mode}"> (x, scales)
        }}"""
    after = apply_pass(RaiseOpset(17), Model(parse(text))).model
    assert after.opset == 17
    assert_same_outputs(parse(text), after.proto)


def test_one_that_may_shrink_the_image_is_refused() -> None:
    text = model("y = Resize (x, scales)", 10, weights="float[3] scales = {1, 1, 0.5}", y="float[1, 2, 1] y")
    assert_untouched(RaiseOpset(17), text, "node 'y' (Resize) may shrink the image")


def test_a_group_normalisation_whose_scales_are_those_of_groups_is_refused() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 18]>
        g (float[1, 4, 2] x) => (float[1, 4, 2] y) <float[2] s = {1, 2}, float[2] b = {0, 1}> {
            y = GroupNormalization <num_groups = 2> (x, s, b)
        }"""
    assert_untouched(RaiseOpset(21), text, "node 'y' (GroupNormalization) has a scale for each group")


def test_a_scan_from_when_it_had_a_batch_is_refused() -> None:
    text = """
        <ir_version: 3, opset_import: ["": 8]>
        g (float[1, 2] first, float[1, 3, 2] x) => (float[1, 2] last, float[1, 3, 2] y) {
            last, y = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] e) => (float[2] t, float[2] u) {
                t = Add (s, e)  u = Identity (t)
            }> ("", first, x)
        }"""
    assert_untouched(RaiseOpset(17), text, "node 'last' (Scan) holds a body and is another operator")


def test_an_operator_that_the_converter_does_not_know_is_named() -> None:
    text = model("y = Upsample (x, scales)", 9, ", float[3] scales", y="float[a, b, c] y")
    assert_untouched(RaiseOpset(17), text, "node 'y' (Upsample)")


def test_an_input_of_unknown_type_is_refused() -> None:
    text = model("a = my.Custom (x)  y = Squeeze <axes = [0]> (a)", 12)
    assert_untouched(RaiseOpset(17), text, "nothing tells the type of 'a', which node 'y' (Squeeze) reads")


def test_there_is_no_way_back() -> None:
    assert_untouched(RaiseOpset(17), model("y = Squeeze (x)", 20), "it has operator set 20 already")
    assert_untouched(RaiseOpset(20), model("y = Squeeze (x)", 20), None)


def test_a_set_that_onnx_does_not_have_is_an_error() -> None:
    with pytest.raises(ValueError, match="opset is 999; this version of onnx has 1 to"):
        RaiseOpset(999)


CHANGED = ["Softmax", "LogSoftmax", "Hardmax", "ReduceSum", "ReduceMean", "ReduceMax", "ArgMax", "Unsqueeze", "Clip"]
CHANGED += ["Pad", "Slice", "TopK", "Split", "BatchNormalization", "Dropout", "Upsample", "AveragePool", "MaxPool"]
CHANGED += ["Cast", "Gemm"]


def any_node(build: Builder, x: str, shape: list[int]) -> str:
    """Add an operator whose definition has changed since the oldest set that is drawn; `x` is of rank 4."""
    axes = sorted({build.integer(0, 3), build.integer(0, 3)})
    old, keep = build.opset, build.choice([None, 0, 1])
    kind = build.choice(CHANGED)
    if kind in ("Softmax", "LogSoftmax", "Hardmax"):
        return str(build.node(kind, [x], axis=build.choice([None, 0, 2, 3])))
    if kind.startswith("Reduce") and old < (13 if kind == "ReduceSum" else 18):
        return str(build.node(kind, [x], axes=build.choice([axes, None]), keepdims=keep))
    if kind == "ArgMax":
        return str(build.node(kind, [x], axis=build.integer(0, 3), keepdims=keep))
    if kind == "Unsqueeze" and old < 13:
        return str(build.node(kind, [x], axes=axes))
    if kind == "Clip":
        if old < 11:
            return str(build.node(kind, [x], min=build.choice([None, -1.0]), max=build.choice([None, 1.0])))
        return str(build.node(kind, [x, build.constant(np.float32(-1))]))
    if kind == "Pad" and old < 11:
        return str(build.node(kind, [x], pads=[0, 0, 1, 0, 0, 0, 0, 2], value=build.choice([None, 1.5])))
    if kind == "Slice" and old < 10:
        return str(build.node(kind, [x], starts=[0], ends=[build.choice([1, -1])], axes=build.choice([[2], None])))
    if kind == "TopK" and old < 10:
        return str(build.node(kind, [x], outputs=2, k=1, axis=3)[0])
    if kind == "Split" and old < 13:
        return str(build.node(kind, [x], outputs=2, axis=3, split=[1, shape[3] - 1])[0])
    if kind == "BatchNormalization":
        statistics = [build.weight([shape[1]]) for _ in range(3)]
        variance = build.constant(np.abs(build.values([shape[1]])) + 1)
        return str(build.node(kind, [x, *statistics, variance]))
    if kind == "Dropout" and old < 12:
        return str(build.node(kind, [x], ratio=0.25))
    if kind == "Upsample" and old < 10:
        scales = build.constant(np.float32([1, 1, build.choice([1, 2, 3]), build.choice([1, 1.5, 2])]))
        return str(build.node(kind, [x, scales], mode=build.choice(["nearest", "linear", None])))
    if kind in ("AveragePool", "MaxPool"):
        extra = {"count_include_pad": build.choice([None, 1])} if kind == "AveragePool" else {}
        return str(
            build.node(kind, [x], kernel_shape=[2, 2], pads=[1, 0, 0, 1], ceil_mode=build.choice([None, 0]), **extra)
        )
    if kind == "Gemm":
        flat = build.node("Flatten", [x], axis=1)
        return str(build.node(kind, [flat, build.weight([int(np.prod(shape[1:])), 2]), build.weight([2])]))
    return str(build.node("Cast", [x], to=TensorProto.FLOAT))


@fuzz(lambda build: RaiseOpset(build.choice([17, 18, 20, 21])))
def test_any_drawn_graph_computes_the_same(build: Builder) -> list[str]:
    shape = [build.integer(1, 2), build.integer(1, 3), build.integer(2, 4), build.integer(2, 4)]
    x = build.input(shape)
    return [any_node(build, x, shape) for _ in range(build.integer(1, 3))]
