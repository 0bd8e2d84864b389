"""The style systolic: what it writes, with which scales, and what it leaves float."""

from collections.abc import Iterable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from graphsurgery.devices import session
from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.quantize import Settings, backend
from quantize.small_models import Feeds, filled, loss, node, ops, values, writer

NET = """
    <ir_version: 8, opset_import: ["": 13]>
    g (float[1, 3, 16, 16] x) => (float[1, 3, 16, 16] y)
    <float[8, 3, 3, 3] w1, float[8] b1, float[8, 8, 3, 3] w2, float[8] b2, float[8, 3, 2, 2] w3, float[3] b3> {
        [one] a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        [act] r = Relu (a)
        [pool] p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
        [two] c = Conv <pads = [1, 1, 1, 1]> (p, w2, b2)
        [up] y = ConvTranspose <strides = [2, 2]> (c, w3, b3)
    }"""


def quantized(model: ModelProto, feeds: Feeds | None = None, **settings: object) -> ModelProto:
    chosen = Settings(style="systolic", **settings)  # type: ignore[arg-type]
    backend("onnxruntime").check(chosen)
    before = model.SerializeToString(deterministic=True)
    feeds = Feeds(model) if feeds is None else feeds
    result = backend("onnxruntime").quantize(model, feeds, chosen, lambda *step: None)
    assert model.SerializeToString(deterministic=True) == before, "it changes the model it is given"
    Model(result).check("the quantized model")
    for kind in ("input", "output"):
        assert list(getattr(result.graph, kind)) == list(getattr(model.graph, kind))
    session.run(result, feeds[0])
    return result


def around(text: str, opset: int = 13) -> ModelProto:
    """Return a model in which `text` stands between two layers: it reads t [1, 4, 8, 8] and writes m.

    It may read `doubled` and `region`, the scales and the region of a Resize, too.
    """
    return filled(
        f"""<ir_version: 8, opset_import: ["": {opset}]>
        g (float[1, 4, 8, 8] x) => (float[n0, n1, n2, n3] y)
        <float[4, 4, 1, 1] w1, float[4, 4, 1, 1] w2, float[4] doubled = {{1.0, 1.0, 2.0, 2.0}},
         float[8] region = {{0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0}}> {{
            [before] t = Conv (x, w1)
            {text}
            [after] y = Conv (m, w2)
        }}"""
    )


def scale(model: ModelProto, tensor: str) -> float:
    return float(values(model, f"{tensor}_scale"))


def computed(model: ModelProto, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the extremes of tensors of the float model over the calibration."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    runs = [session.run(copy, feed) | dict(feed) for feed in Feeds(model)]
    return {name: np.stack([run[name] for run in runs]) for name in (*names, "x")}


# --- the operators ---------------------------------------------------------------------------------------------------


def test_a_net_of_layers_is_in_integers_from_end_to_end() -> None:
    result = quantized(filled(NET))
    assert ops(result) == [
        "QuantizeLinear",
        "QLinearConv",
        "QLinearRelu",
        "MaxPool",
        "QLinearConv",
        "QLinearConvTranspose",
        "DequantizeLinear",
    ]
    assert {each.domain for each in result.graph.node} == {""}
    assert list(node(result, "up_quant").attribute) == list(node(filled(NET), "up").attribute)


def test_all_numbers_are_int8_around_zero_with_one_scale_per_tensor() -> None:
    model = filled(NET)
    result = quantized(model)
    seen = computed(model, ("a", "p", "c", "y"))
    zeros = [each for each in result.graph.initializer if each.name.endswith("_zero_point")]
    assert zeros
    assert all(each.data_type == onnx.TensorProto.INT8 and not numpy_helper.to_array(each).any() for each in zeros)
    for name in ("w1", "w2", "w3"):
        weight = values(model, name)
        assert scale(result, name) == pytest.approx(2 * np.abs(weight).max() / 254, rel=1e-6)
        np.testing.assert_array_equal(
            values(result, f"{name}_quantized"), np.rint(weight / np.float32(scale(result, name)))
        )
    for name in ("x", "c", "y"):
        assert scale(result, name) == pytest.approx(np.abs(seen[name]).max() / 127, rel=1e-6)
    assert scale(result, "a") == pytest.approx(seen["p"].max() / 127, rel=1e-6)
    for name, image, weight in (("b1", "x", "w1"), ("b2", "a", "w2"), ("b3", "c", "w3")):
        whole = values(result, f"{name}_quantized")
        assert whole.dtype == np.int32
        np.testing.assert_allclose(
            whole, values(model, name) / (scale(result, image) * scale(result, weight)), atol=0.51
        )


def test_what_it_costs_is_what_rounding_must() -> None:
    """Relative noise of what is rounded adds up along a chain of layers, as it does not correlate.

    Rounding to steps of s is off by s^2 / 12 in the mean. A tensor whose peak is c times its root mean square has steps
    of c / 127 of that, so a noise of c^2 / (12 * 127^2) of its power. Relu and MaxPool round nothing, a bias is finer.
    """
    model = filled(NET)
    rounded = [*computed(model, ("p", "c", "y")).values(), *(values(model, name) for name in ("w1", "w2", "w3"))]
    crests = [np.abs(value).max() / np.sqrt(np.mean(value**2)) for value in rounded]
    bound = -10 * np.log10(sum(crest**2 / (12 * 127**2) for crest in crests))
    assert 30 < bound < 40
    assert loss(model, quantized(model)) > bound - 1.5  # a sum over few channels is not quite the mean


# --- what moves numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[it] m = Relu (t)",
        "[it] m = MaxPool <kernel_shape = [2, 2]> (t)",
        "[it] m = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (t)",
        "[it] m = Transpose <perm = [0, 1, 3, 2]> (t)",
        "s = Constant <value = int64[4] {1, 4, 4, 16}> ()\n [it] m = Reshape (t, s)",
        "[it] f = Flatten <axis = 2> (t)\n s = Constant <value = int64[4] {1, 4, 64, 1}> ()\n m = Reshape (f, s)",
        "k = Constant <value = int64[1] {0}> ()\n [it] f = Squeeze (t, k)\n [back] m = Unsqueeze (f, k)",
        "s = Constant <value = int64[4] {1, 1, 2, 1}> ()\n [it] m = Tile (t, s)",
        "[it] m = Resize (t, , doubled)",
    ],
)
def test_what_moves_numbers_passes_them_through(text: str) -> None:
    model = around(text)
    result = quantized(model)
    assert ops(result).count("QuantizeLinear") == ops(result).count("DequantizeLinear") == 1
    kept = [name for name in ops(model) if name not in ("Conv", "Relu", "Constant")]
    assert [name for name in ops(result) if name in kept] == kept
    after = node(result, "after_quant")
    assert after.input[0] == "m_quantized"
    assert after.input[1:3] == ["t_scale", "t_zero_point"]
    assert loss(model, result) > 25


def test_a_relu_is_one_of_integers() -> None:
    result = quantized(around("[it] m = Relu (t)"))
    assert (node(result, "it").op_type, node(result, "it").domain) == ("QLinearRelu", "")
    assert [node(result, "it").input, node(result, "it").output] == [["t_quantized"], ["m_quantized"]]


def test_scales_that_are_computed_in_integers_are_read_in_float() -> None:
    text = "z = Sub (t, t)\n r = ReduceSum <keepdims = 0> (z)\n o = Exp (r)\n"
    text += " k = Mul (doubled, o)\n [it] m = Resize (t, , k)"
    result = quantized(around(text))
    assert list(node(result, "it").input) == ["t_quantized", "", "k"]
    assert "QLinearMul" in ops(result)


@pytest.mark.parametrize(
    ("text", "opset"),
    [
        ('[it] m = Resize <mode = "linear"> (t, , doubled)', 13),
        ('[it] m = Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (t, region, doubled)', 13),
        ("[it] m = MaxPool <kernel_shape = [2, 2]> (t)", 11),
        ("[it] m, i = MaxPool <kernel_shape = [2, 2]> (t)", 13),
        ("i = Constant <value = int64[2] {0, 3}> ()\n [it] m = Gather <axis = 2> (t, i)", 13),
        ("[it] m = AveragePool <kernel_shape = [2, 2]> (t)", 13),
        ("[it] m = Abs (t)", 13),
        ("[it] m = Concat <axis = 2> (t, t)", 13),
    ],
)
def test_what_computes_new_numbers_stays_float(text: str, opset: int) -> None:
    model = around(text, opset)
    result = quantized(model)
    assert node(result, "it").input[0] == "t"
    assert node(result, "it").output[0] == "m"
    assert {"before_quant", "after_quant"} <= {each.name for each in result.graph.node}
    assert loss(model, result) > 20


def test_what_reads_float_is_not_made_to_read_integers() -> None:
    text = NET.replace("(x, w1, b1)", "(x1, w1, b1)").replace("[one]", "x0 = Exp (x)\n x1 = Relu (x0)\n [one]")
    result = quantized(filled(text))
    assert ops(result)[:4] == ["Exp", "Relu", "QuantizeLinear", "QLinearConv"]


def test_a_shape_needs_no_float() -> None:
    text = """i = Constant <value = int64[2] {0, 3}> ()
            [pick] g = Gather <axis = 2> (t, i)
            [of_gather] s = Shape (g)
            [of_t] u = Shape (t)
            o = Sub (s, s)
            v = Add (u, o)
            [it] m = Reshape (t, v)"""
    result = quantized(around(text))
    assert node(result, "pick").input[0] == "t_quantized"
    assert node(result, "of_gather").input[0] == "g_quantized"
    assert node(result, "of_t").input[0] == "t_quantized"
    assert ops(result).count("DequantizeLinear") == 1


@pytest.mark.parametrize(
    "data",
    [
        "d = Constant <value = float[1, 4, 8, 1] {" + ", ".join(["0.0"] * 32) + "}> ()",
        "z = Constant <value = int64[4] {1, 4, 8, 1}> ()\n d = ConstantOfShape (z)",
    ],
    ids=["initializer", "filled"],
)
def test_updates_are_scattered_over_zeros_in_integers(data: str) -> None:
    text = f"""{data}
            i = Constant <value = int64[1, 4, 8, 1] {{{", ".join(["0, 1, 2, 3, 4, 5, 6, 7"] * 4)}}}> ()
            u = MaxPool <kernel_shape = [1, 8]> (t)
            [it] m = ScatterElements <axis = 2> (d, i, u)"""
    model = around(text)
    result = quantized(model)
    assert [name.endswith("_quantized") for name in node(result, "it").input] == [True, False, True]
    assert node(result, "after_quant").input[1] == "t_scale"
    assert loss(model, result) > 25


@pytest.mark.parametrize(
    "text",
    [
        "d = Conv (x, w2)\n [it] m = ScatterElements <axis = 2> (d, i, u)",
        "d = Constant <value = float[1, 4, 8, 1] {"
        + "0.0, " * 31
        + "1.0}> ()\n [it] m = ScatterElements <axis = 2> (d, i, u)",
        '[it] m = ScatterElements <axis = 2, reduction = "add"> (t, i, u)',
    ],
    ids=["other scale", "constant", "added"],
)
def test_updates_are_scattered_over_other_data_or_added_in_float(text: str) -> None:
    indices = f"i = Constant <value = int64[1, 4, 8, 1] {{{', '.join(['0, 1, 2, 3, 4, 5, 6, 7'] * 4)}}}> ()"
    model = around(f"{indices}\n u = MaxPool <kernel_shape = [1, 8]> (t)\n {text}", 16)
    assert not any(name.endswith("_quantized") for name in node(quantized(model), "it").input)


def test_updates_are_scattered_over_data_of_their_own_scale_in_integers() -> None:
    text = f"""i = Constant <value = int64[1, 4, 8, 1] {{{", ".join(["0, 1, 2, 3, 4, 5, 6, 7"] * 4)}}}> ()
            u = MaxPool <kernel_shape = [1, 8]> (t)
            [it] m = ScatterElements <axis = 2> (t, i, u)"""
    result = quantized(around(text))
    assert list(node(result, "it").input)[::2] == ["t_quantized", "u_quantized"]


# --- what is computed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "op"),
    [
        ("[it] m = Add (t, x)", "com.microsoft.QLinearAdd"),
        ("[it] m = Mul (t, x)", "com.microsoft.QLinearMul"),
        ("b = Constant <value = float[1] {0.5}> ()\n [it] m = Add (t, b)", "com.microsoft.QLinearAdd"),
        ("[it] m = Sigmoid (t)", "com.microsoft.QLinearSigmoid"),
        ("[it] m = LeakyRelu <alpha = 0.2> (t)", "com.microsoft.QLinearLeakyRelu"),
        ("[it] m = MatMul (t, x)", ".QLinearMatMul"),
    ],
)
def test_what_is_computed_in_integers(text: str, op: str) -> None:
    model = around(text)
    result = quantized(model)
    made = node(result, "it_quant")
    assert f"{made.domain}.{made.op_type}" == op
    assert ops(result).count("DequantizeLinear") == 1
    assert loss(model, result) > 20


def test_whole_numbers_are_added_as_they_are() -> None:
    text = "s = Shape (t)\n o = Constant <value = int64[1] {0}> ()\n [it] n = Add (s, o)\n m = Reshape (t, n)"
    assert node(quantized(around(text)), "it").op_type == "Add"


def test_a_gemm_stays_float_and_what_lowers_it_does_not() -> None:
    head = """<ir_version: 8, opset_import: ["": 13]>
        g (float[2, 6] x) => (float[2, 5] y) <float[6, 8] w1, float[8, 5] w2, float[5] b2> {
            [first] a = MatMul (x, w1)
            [last] y = Gemm (a, w2, b2)
        }"""
    assert ops(quantized(filled(head))) == ["QuantizeLinear", "QLinearMatMul", "DequantizeLinear", "Gemm"]
    lowered = head.replace("[last] y = Gemm (a, w2, b2)", "t = MatMul (a, w2)\n [last] y = Add (t, b2)")
    assert ops(quantized(filled(lowered))).count("QLinearMatMul") == 2


def test_a_bias_that_is_computed_or_too_large_leaves_its_layer_float() -> None:
    computed_bias = NET.replace("[two]", "b = Neg (b2)\n [two]").replace("(p, w2, b2)", "(p, w2, b)")
    assert node(quantized(filled(computed_bias)), "two").op_type == "Conv"
    large = filled(NET)
    for each in large.graph.initializer:
        if each.name == "b2":
            each.CopyFrom(numpy_helper.from_array(np.full(8, 1e8, np.float32), "b2"))
    result = quantized(large)
    assert node(result, "two").op_type == "Conv"
    assert node(result, "one_quant").op_type == "QLinearConv"


# --- ranges ----------------------------------------------------------------------------------------------------------


def test_a_relu_that_is_not_alone_leaves_the_whole_range() -> None:
    alone = around("r = Relu (t)\n [it] m = Transpose <perm = [0, 1, 3, 2]> (r)")
    other = around("r = Relu (t)\n n = Neg (t)\n [it] m = Add (r, n)")
    seen = computed(alone, ("t",))["t"]
    assert scale(quantized(alone), "t") == pytest.approx(seen.max() / 127, rel=1e-6)
    assert scale(quantized(other), "t") == pytest.approx(np.abs(seen).max() / 127, rel=1e-6)
    assert np.abs(seen).max() > seen.max()


def test_a_relu_behind_an_output_leaves_the_whole_range() -> None:
    model = around("[it] m = Relu (t)")
    model.graph.output.append(onnx.helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, [1, 4, 8, 8]))
    result = quantized(model)
    assert scale(result, "t") == pytest.approx(np.abs(computed(around("[it] m = Relu (t)"), ("t",))["t"]).max() / 127)
    last = writer(result, "t")
    assert last is not None
    assert last.op_type == "DequantizeLinear"


def test_a_pool_that_leaves_peaks_out_gives_its_own_range() -> None:
    model = around("r = Relu (t)\n [it] m = MaxPool <kernel_shape = [1, 1], strides = [3, 3]> (r)")
    seen = computed(model, ("r", "m"))
    assert seen["m"].max() < seen["r"].max()
    assert scale(quantized(model), "t") == pytest.approx(seen["m"].max() / 127, rel=1e-6)


def test_what_is_always_zero_has_the_scale_one() -> None:
    model = around("n = Relu (t)\n g = Neg (n)\n [it] m = Relu (g)")
    assert scale(quantized(model), "m") == 1.0


# --- what stays float by wish, and what is refused -------------------------------------------------------------------


def test_excluded_operators_and_names_stay_float() -> None:
    model = around("a = Add (t, x)\n [mul_it] b = Mul (a, t)\n [other] m = Mul (b, t)")
    result = quantized(model, exclude_ops=("Add",), exclude=("mul_*",))
    assert [name for name in ops(result) if "Add" in name or "Mul" in name] == ["Add", "Mul", "QLinearMul"]


def test_what_a_body_reads_is_there_in_float() -> None:
    text = """[act] r = Relu (t)
            s = ReduceMax <keepdims = 0> (r)
            c = Cast <to = 9> (s)
            [choose] m = If (c) <
                then_branch = a () => (float[1, 4, 8, 8] p) { [inner] p = Neg (t) },
                else_branch = b () => (float[1, 4, 8, 8] q) { q = Identity (r) }
            >"""
    model = around(text)
    result = quantized(model)
    assert node(result, "choose").op_type == "If"
    assert loss(model, result) > 25


def test_the_first_opset_that_has_integers_will_do() -> None:
    result = quantized(filled(NET.replace("13", "10")))
    assert "QLinearConvTranspose" in ops(result)
    assert node(result, "pool").input[0] == "r"  # MaxPool takes no int8 yet


def test_values_without_a_range_are_told_with_their_node() -> None:
    model = around("z = Constant <value = float[1] {0.0}> ()\n d = Div (t, z)\n [it] m = Add (d, t)")
    with pytest.raises(InputError, match=r"tensor 'd' becomes NaN or Inf on the samples.*add 'it', the Add that reads"):
        quantized(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "qdq"}, "format: style systolic has qoperator, not qdq; leave the option out"),
        ({"activations": "uint8"}, "activations: style systolic has int8, not uint8"),
        ({"weights": "uint8"}, "weights: style systolic has int8, not uint8"),
        ({"per_channel": True}, "per_channel: style systolic has false, not true"),
        ({"symmetric_activations": False}, "symmetric_activations: style systolic has true, not false"),
        ({"config": "qnn"}, "config: style systolic has none, not qnn"),
        ({"method": "min_mse"}, "method: backend 'onnxruntime' has minmax"),
    ],
    ids=str,
)
def test_what_contradicts_the_style_is_refused_in_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backend("onnxruntime").check(Settings(style="systolic", **settings))  # type: ignore[arg-type]


def test_what_says_the_same_as_the_style_is_taken() -> None:
    same = {"format": "qoperator", "activations": "int8", "weights": "int8", "per_channel": False}
    assert ops(quantized(filled(NET), **same)) == ops(quantized(filled(NET)))


@pytest.mark.parametrize("name", ["quark", "vai_q_onnx"])
def test_other_backends_do_not_have_the_style(name: str) -> None:
    with pytest.raises(ValueError, match=f"style: backend 'onnxruntime' has systolic, '{name}' has not"):
        backend(name).check(Settings(style="systolic"))
