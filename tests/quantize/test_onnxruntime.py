"""The backend onnxruntime: what it writes, what it keeps, what it refuses."""

import logging

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from graphsurgery.devices import session
from graphsurgery.errors import InputError
from graphsurgery.quantize import Settings, backend, name_nodes, prepare
from graphsurgery.testing import parse
from quantize.small_models import Feeds, filled, loss, node, ops, values, writer

CONVS = """
    <ir_version: 8, opset_import: ["": 17], producer_name: "somebody", metadata_props: ["graphsurgery.batch": "kept"]>
    g (float[1, 3, 8, 8] x) => (float[1, 6, 8, 8] y, float[1, 4, 8, 8] z)
    <float[4, 3, 3, 3] w1, float[4] b1, float[6, 4, 1, 1] w2> {
        [first] a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        [act] z = Relu (a)
        [second] y = Conv (z, w2)
    }"""
SHARED = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) <float[4, 4, 1, 1] w, float[4] b> {
        [first] a = Conv (x, w, b)
        [second] y = Conv (a, w, b)
    }"""
WITH_IF = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) <float[4, 4, 1, 1] w> {
        [first] a = Conv (x, w)
        [act] r = Relu (a)
        m = ReduceMax <keepdims = 0> (r)
        c = Cast <to = 9> (m)
        [choose] y = If (c) <
            then_branch = t () => (float[1, 4, 8, 8] p) { [inner] p = Conv (a, w) },
            else_branch = e () => (float[1, 4, 8, 8] q) { q = Neg (r) }
        >
    }"""


def quantized(model: ModelProto, feeds: Feeds | None = None, **settings: object) -> ModelProto:
    chosen = Settings(**settings)  # type: ignore[arg-type]
    backend("onnxruntime").check(chosen)
    steps: list[tuple[int, int]] = []
    before = model.SerializeToString(deterministic=True)
    feeds = Feeds(model) if feeds is None else feeds
    result = backend("onnxruntime").quantize(model, feeds, chosen, lambda *step: steps.append(step))
    assert model.SerializeToString(deterministic=True) == before, "it changes the model it is given"
    assert steps[-1][0] == steps[-1][1] >= len(feeds)
    onnx.checker.check_model(result, full_check=chosen.format != "qoperator" and "16" not in str(chosen.activations))
    for kind in ("input", "output"):
        assert list(getattr(result.graph, kind)) == list(getattr(model.graph, kind))
    return result


def parameters(model: ModelProto, op: str = "QuantizeLinear") -> list[tuple[np.ndarray, np.ndarray]]:
    """Return scale and zero point of each node of that kind."""
    return [(values(model, n.input[1]), values(model, n.input[2])) for n in model.graph.node if n.op_type == op]


# --- what it writes -----------------------------------------------------------------------------------------------


def test_by_default_layers_stand_between_dequantize_and_quantize() -> None:
    model = filled(CONVS)
    result = quantized(model)
    assert ops(result).count("Conv") == 2
    for name in ("first", "second"):
        read = [writer(result, tensor) for tensor in node(result, name).input]
        assert all(each is not None and each.op_type == "DequantizeLinear" for each in read)
    assert {zero.dtype for _, zero in parameters(result)} == {np.dtype(np.uint8)}
    assert "Relu" not in ops(result), "a range that begins at 0 says what Relu does"
    assert loss(model, result) > 30


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"per_channel": False},
        {"activations": "int8"},
        {"activations": "int8", "symmetric_activations": True},
        {"symmetric_activations": True},
        {"weights": "uint8"},
        {"weights": "uint8", "symmetric_weights": True},
        {"symmetric_weights": False},
        {"activations": "uint16"},
        {"activations": "int16", "symmetric_activations": True},
        {"method": "percentile"},
        {"method": "entropy"},
        {"format": "qoperator"},
        {"format": "qoperator", "per_channel": False, "weights": "uint8"},
        {"format": "qoperator", "activations": "int8"},
        {"config": "qnn"},
        {"config": "qnn", "activations": "uint16"},
    ],
    ids=str,
)
def test_every_choice_computes_about_the_same(settings: dict[str, object]) -> None:
    model = filled(CONVS)
    result = quantized(model, **settings)
    assert any("Quantize" in op for op in ops(result))
    assert loss(model, result) > 15


def test_weights_have_a_scale_for_each_channel() -> None:
    result = quantized(filled(CONVS))
    weight = writer(result, node(result, "first").input[1])
    assert weight is not None
    assert values(result, weight.input[1]).shape == (4,)
    assert values(result, weight.input[0]).dtype == np.int8
    assert not values(result, weight.input[2]).any()


def test_per_tensor_has_one_scale() -> None:
    result = quantized(filled(CONVS), per_channel=False)
    assert all(scale.ndim == 0 or scale.size == 1 for scale, _ in parameters(result, "DequantizeLinear"))


@pytest.mark.parametrize(("kind", "zero"), [("int8", 0), ("int16", 0), ("uint8", 128), ("uint16", 32768)])
def test_symmetric_activations_have_their_zero_in_the_middle(kind: str, zero: int) -> None:
    result = quantized(filled(CONVS), activations=kind, symmetric_activations=True)
    found = parameters(result)
    assert found
    assert {int(point) for _, point in found} == {zero}
    assert {point.dtype for _, point in found} == {np.dtype(kind)}


def test_asymmetric_activations_use_the_whole_range() -> None:
    model = filled(CONVS)
    result = quantized(model, activations="uint8")
    scale, zero = next(
        (values(result, n.input[1]), values(result, n.input[2]))
        for n in result.graph.node
        if n.op_type == "QuantizeLinear" and n.input[0] == "x"
    )
    low, high = min(f["x"].min() for f in Feeds(model)), max(f["x"].max() for f in Feeds(model))
    assert float(scale) == pytest.approx((high - low) / 255, rel=1e-5)
    assert int(zero) == round(-low / float(scale))


def test_sixteen_bits_use_the_operators_of_microsoft_before_opset_21() -> None:
    result = quantized(filled(CONVS), activations="int16")
    assert {n.domain for n in result.graph.node if n.op_type == "QuantizeLinear"} == {"com.microsoft"}
    newer = quantized(filled(CONVS.replace('"": 17', '"": 21')), activations="int16")
    assert {n.domain for n in newer.graph.node if n.op_type == "QuantizeLinear"} == {""}


def test_sixteen_bits_lose_less_than_eight() -> None:
    model = filled(CONVS)
    assert loss(model, quantized(model, activations="uint16")) > loss(model, quantized(model)) + 3


def test_qoperator_has_layers_in_integers() -> None:
    result = quantized(filled(CONVS), format="qoperator")
    assert ops(result).count("QLinearConv") == 2
    assert "Conv" not in ops(result)


def test_qnn_quantizes_what_others_leave_float() -> None:
    text = CONVS.replace("y = Conv (z, w2)", "s = Conv (z, w2)\n        [last] y = Softplus (s)")
    model = filled(text)
    assert writer(quantized(model), "y").op_type == "Softplus"  # type: ignore[union-attr]
    assert writer(quantized(model, config="qnn"), "y").op_type == "DequantizeLinear"  # type: ignore[union-attr]


def test_qnn_has_no_scale_too_small_for_the_device() -> None:
    model = filled(CONVS)
    feeds = Feeds(model)
    for feed in feeds:
        feed["x"][:] *= 1e-12
    scales = [float(scale) for scale, _ in parameters(quantized(model, feeds, config="qnn"))]
    assert min(scales) > 1e-7 > float(parameters(quantized(model, feeds))[0][0])


# --- what it keeps ------------------------------------------------------------------------------------------------


def test_notes_producer_and_known_shapes_stay_and_nothing_is_added() -> None:
    model = filled(CONVS)
    result = quantized(model)
    assert list(result.metadata_props) == list(model.metadata_props)
    assert result.producer_name == "somebody"
    assert result.producer_version == model.producer_version


@pytest.mark.parametrize("settings", [{}, {"format": "qoperator"}, {"config": "qnn"}], ids=str)
def test_excluded_nodes_stay_float_with_the_weights_as_they_were(settings: dict[str, object]) -> None:
    model = filled(CONVS)
    result = quantized(model, exclude=("sec*",), **settings)
    kept = node(result, "second")
    assert kept.op_type == "Conv"
    np.testing.assert_array_equal(values(result, kept.input[1]), values(model, "w2"))
    assert writer(result, "y") is kept


def test_an_excluded_operator_stays_float() -> None:
    result = quantized(filled(CONVS), exclude_ops=("Conv",))
    assert not any("Quantize" in op for op in ops(result))


def test_a_name_that_looks_like_a_pattern_is_excluded_as_it_stands() -> None:
    model = filled(CONVS)
    node(model, "second").name = "block[1]"
    assert writer(quantized(model, exclude=("block[1]",)), "y").op_type == "Conv"  # type: ignore[union-attr]


def test_a_shared_weight_is_quantized_for_both() -> None:
    model = filled(SHARED)
    result = quantized(model)
    assert node(result, "first").input[1] == node(result, "second").input[1]
    assert node(result, "first").input[2] != node(result, "second").input[2], "a bias has the scale of its layer"
    assert loss(model, result) > 25


@pytest.mark.parametrize("settings", [{}, {"format": "qoperator"}], ids=str)
def test_a_float_node_does_not_read_the_quantized_copy_of_a_shared_weight(settings: dict[str, object]) -> None:
    model = filled(SHARED)
    result = quantized(model, exclude=("second",), **settings)
    kept = node(result, "second")
    for name, original in zip(kept.input[1:], ("w", "b"), strict=True):
        np.testing.assert_array_equal(values(result, name), values(model, original))


def test_weights_in_constant_nodes_are_weights() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 1, 4, 4] x) => (float[1, 2, 4, 4] y) {
            w = Constant <value = float[2, 1, 1, 1] {1.5, -3}> ()
            [only] y = Conv (x, w)
        }"""
    result = quantized(parse(text))
    weight = writer(result, node(result, "only").input[1])
    assert weight is not None
    np.testing.assert_array_equal(values(result, weight.input[0]).ravel(), [127, -127])


@pytest.mark.parametrize("settings", [{}, {"format": "qoperator"}, {"config": "qnn"}], ids=str)
def test_bodies_are_left_alone_and_still_read_what_they_read(
    settings: dict[str, object], request: pytest.FixtureRequest
) -> None:
    if "format" in settings:
        request.getfixturevalue("exact_int8")
    model = filled(WITH_IF)
    result = quantized(model, **settings)
    branch = next(a.g for a in node(result, "choose").attribute if a.name == "then_branch")
    assert [inner.op_type for inner in branch.node] == ["Conv"]
    assert "Relu" in ops(result), "a body reads what is before it"
    assert loss(model, result) > 20


def test_a_relu_behind_an_output_stays_because_the_output_may_be_negative() -> None:
    text = CONVS.replace("float[1, 4, 8, 8] z)", "float[1, 4, 8, 8] z, float[1, 4, 8, 8] a)")
    model = filled(text)
    result = quantized(model)
    assert "Relu" in ops(result)
    assert min(float(session.run(result, feed)["a"].min()) for feed in Feeds(model)) < -1
    assert loss(model, result) > 25


def test_a_relu_that_let_nothing_through_still_lets_nothing_negative_through() -> None:
    model = filled(CONVS)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b1")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(4, -500, np.float32), "b1"))
    result = quantized(model, activations="int8")
    assert not session.run(result, Feeds(model)[0])["z"].any()


@pytest.mark.parametrize("bound", ["low", "high"])
def test_a_clip_with_a_bound_that_the_range_does_not_say_stays(bound: str) -> None:
    bounds = {"low": ("0.5", "6"), "high": ("-6", "-0.5")}[bound]
    text = CONVS.replace("z = Relu (a)", "z = Clip (a, low, high)").replace(
        "float[4] b1", f"float[4] b1, float low = {{{bounds[0]}}}, float high = {{{bounds[1]}}}"
    )
    model = filled(text)
    result = quantized(model)
    assert "Clip" in ops(result)
    assert loss(model, result) > 20


def test_a_clip_around_zero_goes_into_the_range() -> None:
    text = CONVS.replace("z = Relu (a)", "z = Clip (a, low, high)").replace(
        "float[4] b1", "float[4] b1, float low = {0}, float high = {6}"
    )
    model = filled(text)
    result = quantized(model)
    assert "Clip" not in ops(result)
    assert loss(model, result) > 25


def test_a_node_of_another_domain_stays_float() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "com.microsoft": 1, "mine": 1]>
        g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) <float[4, 4, 1, 1] w> {
            [first] y = Conv (x, w)
            [other] z = mine.Conv (y, w)
        }"""
    model = parse(text)
    assert [n.domain for n in model.graph.node] == ["", "mine"]
    from graphsurgery.quantize.onnxruntime import _kept_float

    assert _kept_float(model.graph, Settings(), {}) == {"other"}


def test_two_runs_give_equal_bytes() -> None:
    model = filled(CONVS)
    first, second = (quantized(model).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_calibrated_once_it_quantizes_with_other_nodes_excluded() -> None:
    model = filled(CONVS)
    feeds, runs = Feeds(model), []
    but = prepare("onnxruntime", model, feeds, Settings(), lambda *step: runs.append(step))
    assert len(runs) == len(feeds)
    plain = but(())
    assert writer(but(("second",)), "y").op_type == "Conv"  # type: ignore[union-attr]
    assert but(()).SerializeToString(deterministic=True) == plain.SerializeToString(deterministic=True)
    assert len(runs) == len(feeds), "it calibrates again"
    assert plain == quantized(model)


def test_nothing_is_printed_or_logged(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    quantized(filled(CONVS), activations="int16", method="percentile")
    assert root.handlers == []
    assert capfd.readouterr() == ("", "")
    assert root.manager.disable == logging.NOTSET


def test_who_listens_to_the_log_hears_nothing_either(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    quantized(filled(CONVS), activations="int16")
    assert not caplog.records


def test_nodes_without_a_name_get_one_that_no_other_has() -> None:
    model = filled(CONVS)
    for each, name in zip(model.graph.node, ("", "z_Relu", "z_Relu"), strict=True):
        each.name = name
    model.graph.node[1].name = ""
    name_nodes(model)
    assert [each.name for each in model.graph.node] == ["a_Conv", "z_Relu_2", "z_Relu"]


# --- opsets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [10, 11, 12, 13, 18, 21, 23])
def test_it_works_in_every_opset_with_quantize_linear(opset: int) -> None:
    model = filled(CONVS.replace('"": 17', f'"": {opset}').replace("ir_version: 8", "ir_version: 6"))
    model.ir_version = 10 if opset > 20 else 8
    result = quantized(model)
    vectors = any(scale.size > 1 for scale, _ in parameters(result, "DequantizeLinear"))
    assert vectors == (opset >= 13)
    assert loss(model, result) > 20


def test_an_opset_without_quantize_linear_is_refused() -> None:
    with pytest.raises(InputError, match="opset 9 has no QuantizeLinear; export with opset 13"):
        quantized(filled(CONVS.replace('"": 17', '"": 9')))


def test_per_channel_is_refused_where_no_operator_has_it() -> None:
    with pytest.raises(InputError, match="opset 12 has no DequantizeLinear per channel"):
        quantized(filled(CONVS.replace('"": 17', '"": 12')), per_channel=True)


# --- what it refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"config": "XINT8"}, "config: backend 'onnxruntime' has qnn"),
        ({"method": "min_mse"}, "'quark' has min_mse"),
        ({"weights": "int16"}, "weights: .* int8 and uint8"),
        ({"activations": "int8", "weights": "uint8"}, "weights: .* int8 only"),
        ({"activations": "uint16", "method": "entropy"}, "method: entropy"),
        ({"per_channel": True, "symmetric_weights": False}, "symmetric_weights"),
        ({"config": "qnn", "format": "qoperator"}, "format"),
        ({"activations": "int16", "format": "qoperator"}, "format: only qdq"),
        ({"weights": "uint8", "per_channel": True, "format": "qoperator"}, "weights"),
    ],
    ids=str,
)
def test_settings_that_it_has_not_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backend("onnxruntime").check(Settings(**settings))  # type: ignore[arg-type]


def test_float16_is_refused() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 4] x) => (float[1, 4] y) {
            h = Cast <to = 10> (x)
            y = Cast <to = 1> (h)
        }"""
    with pytest.raises(InputError, match="tensor 'h' is float16; quantize the float32 model"):
        quantized(parse(text))


def test_a_tensor_without_a_finite_range_is_refused_unless_its_nodes_are_excluded() -> None:
    text = (
        CONVS.replace("y = Conv (z, w2)", "y = Conv (z, w2)\n        [far] f = Div (one, zero)")
        .replace("float[4] b1", "float[4] b1, float one = {1}, float zero = {0}")
        .replace("float[1, 4, 8, 8] z)", "float[1, 4, 8, 8] z, float f)")
    )
    model = filled(text)
    with pytest.raises(InputError, match=r"tensor 'f' becomes NaN or Inf .* 'far', the Div"):
        quantized(model, config="qnn")
    assert "Div" in ops(quantized(model, config="qnn", exclude=("far",)))


def test_element_types_of_the_weights_are_what_was_asked_for() -> None:
    kinds = {tensor.data_type for tensor in quantized(filled(CONVS), weights="uint8").graph.initializer}
    assert TensorProto.UINT8 in kinds
    assert TensorProto.INT8 not in kinds
