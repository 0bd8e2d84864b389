"""What goes to a quantizer and comes back: every graph that one of them trips over, and random ones of the kind."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphsurgery.devices import session
from graphsurgery.errors import ModelError, PassError
from graphsurgery.graph.model import Model
from graphsurgery.partition.static import certify_static, dynamic_values
from graphsurgery.parts.part import Part
from graphsurgery.quantize import Settings, backend
from graphsurgery.quantize.failures import attempt
from graphsurgery.quantize.normalise import normalise
from graphsurgery.quantize.sqnr import output_sqnr
from graphsurgery.testing import parse, random_inputs

SECONDS = 20
INTEGERS = {"format": "qoperator", "activations": "int8"}  # with uint8 a CPU without VNNI saturates


class Feeds:
    """A few runs with random inputs."""

    def __init__(self, model: ModelProto, count: int = 3) -> None:
        self._runs = [random_inputs(model, seed) for seed in range(count)]

    @property
    def inputs(self) -> Sequence[str]:
        return tuple(self._runs[0])

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        return iter(self._runs)


def filled(text: str, opset: int = 17, **values: object) -> ModelProto:
    """Return the model with random values in the initializers that the text declares, and `values` in their place."""
    model = parse(f'<ir_version: {10 if opset > 20 else 8}, opset_import: ["": {opset}]>{text}')
    random = np.random.default_rng(1)
    for info in [info for info in model.graph.value_info if info.name[0] in "wb"]:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        value = np.asarray(values.get(info.name, random.standard_normal(shape)), np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, info.name))
        model.graph.value_info.remove(info)
    onnx.checker.check_model(model, full_check=True)
    return model


def quantized(model: ModelProto, **settings: Any) -> ModelProto:
    """Quantize with the backend onnxruntime, and check what holds for every result."""
    chosen = Settings(**{"seconds": SECONDS, **settings})
    result = backend("onnxruntime").quantize(model, Feeds(model), chosen, lambda done, total: None)
    onnx.checker.check_model(result)
    for kind in ("input", "output"):
        assert list(getattr(result.graph, kind)) == list(getattr(model.graph, kind))
    assert dynamic_values(Model(result)) == []
    names = [node.name for node in result.graph.node]
    assert len(names) == len(set(names))
    return result


def decibels(model: ModelProto, **settings: Any) -> dict[str, float]:
    return output_sqnr(quantized(model, **settings), model, Feeds(model))


def values(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def node(model: ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def writer(model: ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if name in node.output)


# --- each kind with its right value -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["u = Unsqueeze (b, axes)", "u = Reshape (b, shape)"])
@pytest.mark.parametrize("settings", [{}, {"per_channel": False}, {"config": "qnn"}], ids=str)
def test_a_bias_that_is_data_too_is_each_for_itself(way: str, settings: dict[str, Any]) -> None:
    model = filled(
        f"""g (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y, float[1, 4, 8, 8] a)
        <float[4, 3, 3, 3] w, float[4] b, int64[3] axes = {{0, 2, 3}}, int64[4] shape = {{1, 4, 1, 1}}> {{
            a = Conv <pads = [1, 1, 1, 1]> (x, w, b)
            {way}
            y = Mul (a, u)
        }}"""
    )
    begin = time.monotonic()
    assert min(decibels(model, **settings).values()) > 35
    assert time.monotonic() - begin < SECONDS


@pytest.mark.parametrize("add", ["t = Transpose <perm = [0, 2, 3, 1]> (x)  u = Add (t, b)", "u = Add (b, t)"])
@pytest.mark.parametrize("settings", [{}, {"per_channel": False}, {"exclude": ("add",)}, {"exclude_ops": ("Add",)}])
def test_a_conv_that_shares_its_bias_with_an_add_has_one_in_int32(add: str, settings: dict[str, Any]) -> None:
    """Else QNN leaves the weight of that Conv to the CPU."""
    conv = "[head] y = Conv (x, w, b)"
    nodes = f"{add}  {conv}" if "(x)" in add else f"{conv}  t = Transpose <perm = [0, 2, 3, 1]> (y)  {add}"
    model = filled(
        f"""g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y, float[1, 6, 6, 4] u)
        <float[4, 4, 1, 1] w, float[4] b> {{ {nodes.replace("u = Add", "[add] u = Add")} }}"""
    )
    result = quantized(model, **settings)
    head, add_ = node(result, "head"), node(result, "add")
    assert head.input[2] not in add_.input
    assert values(result)[writer(result, head.input[2]).input[0]].dtype == np.int32
    assert values(result)[writer(result, head.input[1]).input[0]].dtype == np.int8


GEMM = """g (float[4, 32] x) => (float[4, 5] y) <float[32, 5] w, float[{shape}] b> {{
    [head] y = Gemm <{options}> (x, w, b)
}}"""


@pytest.mark.parametrize("shape", ["5", "1, 5", "1, 1", "1", "", "4, 5", "4, 1"])
@pytest.mark.parametrize("options", ["transA = 0", "alpha = 0.5, beta = 2.0", "beta = 3.0"])
@pytest.mark.parametrize("settings", [{}, {"per_channel": False}, INTEGERS], ids=str)
def test_a_gemm_may_have_any_bias_and_factors(shape: str, options: str, settings: dict[str, Any]) -> None:
    text = GEMM.format(shape=shape, options=options).replace("float[]", "float")
    model = filled(text, b=5 * np.random.default_rng(2).standard_normal([int(n) for n in shape.split(",") if n]))
    assert decibels(model, **settings)["y"] > 33


def test_a_gemm_has_its_bias_in_int32_for_each_column() -> None:
    result = quantized(filled(GEMM.format(shape="1, 1", options="transA = 0")))
    bias = writer(result, node(result, "head").input[2])
    assert [values(result)[name].dtype for name in bias.input] == [np.int32, np.float32, np.int32]
    assert values(result)[bias.input[0]].shape == (5,)


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("activations", ["uint8", "uint16", "int16"])
def test_every_tensor_behind_a_quantizer_has_its_shape(opset: int, activations: str) -> None:
    model = filled(CHAIN, opset)
    result = quantized(model, activations=activations)
    part = certify_static(Part("net", "npu", True, Model(result)))
    assert dynamic_values(part.model) == []
    assert min(decibels(model, activations=activations).values()) > 33


@pytest.mark.parametrize("settings", [{"format": "qoperator"}, {"config": "qnn"}], ids=str)
def test_so_it_has_in_other_forms(settings: dict[str, Any]) -> None:
    certify_static(Part("net", "npu", True, Model(quantized(filled(CHAIN), **settings))))


CHAIN = """g (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y, float[1, 4, 8, 8] z)
<float[4, 3, 3, 3] w1, float[4, 4, 3, 3] w2, float[4] b, float k = {0.001}> {
    [first] c = Conv <pads = [1, 1, 1, 1]> (x, w1, b)
    r = Relu (c)
    small = Mul (r, k)
    [second] y = Conv <pads = [1, 1, 1, 1]> (small, w2, b)
    [third] z = Conv <pads = [1, 1, 1, 1]> (r, w2, b)
}"""


def test_a_shared_bias_has_the_scale_of_each_layer_and_a_shared_weight_is_there_once() -> None:
    model = filled(CHAIN)
    result = quantized(model)
    second, third = node(result, "second"), node(result, "third")
    assert second.input[1] == third.input[1]
    assert second.input[2] != third.input[2]
    assert sum(value.dtype == np.int8 and value.ndim == 4 for value in values(result).values()) == 2
    assert min(decibels(model).values()) > 33


def test_a_bias_too_large_for_one_layer_does_not_coarsen_the_weight_of_another() -> None:
    model = filled(CHAIN.replace("0.001", "1e-9"))
    result = quantized(model)
    assert node(result, "second").input[1] != node(result, "third").input[1]
    assert min(decibels(model).values()) > 33


@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_transposed_convolution_in_groups_keeps_its_bias_and_its_scales(group: int) -> None:
    text = f"""g (float[1, 4, 8, 8] x) => (float[1, {2 * group}, 9, 9] y)
    <float[4, 2, 2, 2] w, float[{2 * group}] b> {{ [up] y = ConvTranspose <group = {group}> (x, w, b) }}"""
    weight = np.random.default_rng(3).standard_normal((4, 2, 2, 2)) * np.array([1, 50]).reshape(1, 2, 1, 1)
    model = filled(text, w=weight, b=np.arange(2 * group) - 2)
    result = quantized(model)
    bias = writer(result, node(result, "up").input[2])
    whole, scale, zero = (values(result)[name] for name in bias.input)
    assert (whole.dtype, scale.shape, zero.any()) == (np.int32, (2 * group,), False)
    np.testing.assert_allclose(whole * scale, values(model)["b"], atol=2 * scale.max())
    assert decibels(model)["y"] > 35
    assert not any(each.op_type == "Identity" for each in result.graph.node)


def test_a_normalization_over_two_axes_keeps_its_bias() -> None:
    model = filled(
        """g (float[1, 6, 8] x) => (float[1, 6, 4] y) <float[6, 8] w1, float[6, 8] b1, float[8, 4] w2> {
            n = LayerNormalization <axis = 1> (x, w1, b1)
            y = MatMul (n, w2)
        }"""
    )
    assert decibels(model)["y"] > 30


def test_weights_that_two_operators_read_along_other_axes_have_the_scales_of_each() -> None:
    weight = np.random.default_rng(3).standard_normal((4, 4, 1, 1))
    weight[0] *= 100
    weight[:, 1] *= 0.01
    model = filled(
        """g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y, float[1, 4, 8, 8] z) <float[4, 4, 1, 1] w> {
            [one] y = Conv (x, w)
            [other] z = ConvTranspose (x, w)
        }""",
        w=weight,
    )
    result = quantized(model)
    assert node(result, "one").input[1] != node(result, "other").input[1]
    assert min(decibels(model).values()) > 33


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("settings", [{}, INTEGERS], ids=str)
def test_a_bias_that_is_computed_stays_so(operator: str, settings: dict[str, Any]) -> None:
    model = filled(
        f"""g (float[1, 4, 8, 8] x, float[4] shift) => (float[1, 4, 8, 8] y) <float[4, 4, 1, 1] w, float[4] b> {{
            c = Add (b, shift)
            y = {operator} (x, w, c)
        }}"""
    )
    assert decibels(model, **settings)["y"] > 30


# --- names --------------------------------------------------------------------------------------------------------


def test_names_that_the_quantizer_would_give_may_be_taken() -> None:
    text = CHAIN.replace("c)", "x_scale)").replace("c =", "x_scale =").replace("r =", "x_zero_point =")
    text = (
        text.replace("(r,", "(x_zero_point,").replace("small", "x_QuantizeLinear_Output").replace("w2", "w1_quantized")
    )
    text = text.replace("[second]", "[x_QuantizeLinear]")
    model, twin = filled(text), filled(CHAIN)
    assert decibels(model) == decibels(twin)
    assert node(quantized(model), "x_QuantizeLinear").op_type == "Conv"


def test_what_comes_back_has_the_names_that_it_always_had() -> None:
    result = quantized(filled(CHAIN))
    written = {name for each in result.graph.node for name in each.output}
    assert {"x_QuantizeLinear_Output", "x_DequantizeLinear_Output", "w1_DequantizeLinear_Output", "y"} <= written
    assert {"w1_quantized", "w1_scale", "w1_zero_point", "b_quantized", "b_quantized_2"} <= {*values(result)}
    assert not any(name.startswith("q0") for name in written)


def test_a_name_of_the_model_may_look_like_one_from_inside() -> None:
    model = filled(CHAIN.replace("small", "q1_").replace("[second]", "[q2]"))
    assert decibels(model) == decibels(filled(CHAIN))


# --- what can't be quantized --------------------------------------------------------------------------------------


def test_a_model_whose_shapes_can_not_be_inferred_is_at_fault() -> None:
    model = filled(CHAIN)
    model.graph.node[0].op_type = "Loop"
    del model.graph.node[0].input[:]
    with pytest.raises(ModelError, match="shape inference"):
        normalise(model, per_channel=True)


def test_a_quantizer_that_takes_too_long_is_stopped() -> None:
    with pytest.raises(PassError, match=r"^backend 'onnxruntime': .*stopped after 1e-05 s, its limit seconds=1e-05; "):
        quantized(filled(CHAIN), seconds=1e-5)
    assert quantized(filled(CHAIN)), "the process goes on"


def test_a_loop_without_an_end_says_where_it_is() -> None:
    def loop() -> None:
        bias_name = "q7_"
        while bias_name:
            pass

    reply = attempt(loop, 0.2)
    assert reply["failed"] == "it was stopped after 0.2 s, its limit seconds=0.2"
    assert "q7_" in reply["at"]


def test_a_limit_that_is_over_just_as_the_quantizer_is_through_ends_nothing_else() -> None:
    before = signal.getsignal(signal.SIGTERM)
    replies = [attempt(lambda: None, 1e-4 * (number % 5) / 4) for number in range(400)]
    assert signal.getsignal(signal.SIGTERM) is before
    assert {reply.get("failed", "").partition(" after")[0] for reply in replies} <= {"", "it was stopped"}
    assert all("failed" in reply for reply in replies[::5])  # no time at all


def test_a_failure_names_the_node_and_its_tensors() -> None:
    given = normalise(filled(CHAIN), per_channel=True)
    token = given.inside["w2"]
    assert given.place(f"{token}_scale") == "node 'second', a Conv"
    assert given.place("third") == "node 'third', a Conv"
    assert given.place("nothing") == ""
    assert given.text(f"no scale for {token}_quantized") == "no scale for w2_quantized"


# --- random models ------------------------------------------------------------------------------------------------

# what ONNX Runtime's quantizer appends to a tensor's name
SUFFIXES = (
    *("_QuantizeLinear_Output", "_QuantizeLinear_Input", "_DequantizeLinear_Output", "_QuantizeLinear"),
    *("_quantized", "_scale", "_zero_point", "_quantized_scale", "0", "_DequantizeLinear", "_quant"),
)


class Builder:
    """A random chain of layers on [1, 4, 6, 6]: shared weights and biases, odd biases, names that are taken."""

    def __init__(self, seed: int, opset: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.values: dict[str, np.ndarray] = {}
        self.taken = {"x"}
        self.outputs: list[str] = []
        self.opset = opset
        channels = self.normal(4)
        self.values["shared_bias"] = channels
        self.values["shared_weight"] = self.normal(4, 4, 3, 3, by=0.2)
        self.last = "x"

    def normal(self, *shape: int, by: float = 1.0) -> np.ndarray:
        return (by * self.random.standard_normal(shape)).astype(np.float32)

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def name(self, hint: str) -> str:
        """Return a name that nothing has, often what a quantizer would make of one that is there."""
        if self.chance(0.5):
            hint = str(self.random.choice(sorted(self.taken))) + str(self.random.choice(SUFFIXES))
        while hint in self.taken:
            hint += "_"
        self.taken.add(hint)
        return hint

    def constant(self, hint: str, value: np.ndarray) -> str:
        name = self.name(hint)
        self.values[name] = value
        return name

    def add(self, op: str, inputs: list[str], **attributes: object) -> str:
        output = self.name(op.lower())
        title = self.name(f"n_{op}") if self.chance(0.7) else ""
        self.nodes.append(helper.make_node(op, inputs, [output], title, **attributes))
        return output

    def bias(self, size: int = 4) -> list[str]:
        """Return no bias, a shared one, its own, or one that a node computes."""
        kind = self.random.integers(5)
        if kind == 0:
            return []
        if kind < 3 and size == 4:
            return ["shared_bias"]
        own = self.constant("b", self.normal(size))
        return [self.add("Identity", [own])] if kind == 4 and self.chance(0.3) else [own]

    def convolution(self) -> None:
        group = int(self.random.choice([1, 2, 4]))
        weight = self.constant("w", self.normal(4, 4 // group, 3, 3, by=0.4 * 10 ** self.random.uniform(-2, 2)))
        if group == 1 and self.chance(0.5):
            weight = "shared_weight"
        self.last = self.add("Conv", [self.last, weight, *self.bias()], group=group, pads=[1, 1, 1, 1])

    def transposed(self) -> None:
        group = int(self.random.choice([1, 2, 4]))
        weight = self.constant("w", self.normal(4, 4 // group, 3, 3, by=0.4))
        if group == 1 and self.chance(0.5):
            weight = "shared_weight"
        self.last = self.add("ConvTranspose", [self.last, weight, *self.bias()], group=group, pads=[1, 1, 1, 1])

    def scaled(self) -> None:
        """Multiply by, or add, the shared bias as [4, 1, 1], or the same weight as it stands."""
        if self.opset < 13:
            return
        axes = self.constant("axes", np.array([1, 2], np.int64))
        self.last = self.add(
            str(self.random.choice(["Mul", "Add"])), [self.last, self.add("Unsqueeze", ["shared_bias", axes])]
        )

    def rectified(self) -> None:
        self.last = self.add("Relu", [self.last])

    def head(self) -> None:
        """End in Gemm and MatMul, with a bias in one of the shapes that Gemm may have, and alpha and beta."""
        shape = self.constant("shape", np.array([4, 36], np.int64))
        flat = self.add("Reshape", [self.last, shape])
        columns = int(self.random.choice([3, 4]))
        weight = self.constant("w", self.normal(36, columns, by=0.2))
        shapes = [(columns,), (1, columns), (1, 1), (1,), (), (4, columns), (4, 1)]
        bias = self.constant("b", self.normal(*shapes[self.random.integers(len(shapes))]))
        if columns == 4 and self.chance(0.4):
            bias = "shared_bias"
        given = {"alpha": 0.5} if self.chance(0.3) else {}
        given |= {"beta": 2.0} if self.chance(0.3) else {}
        self.outputs.append(self.add("Gemm", [flat, weight, bias], **given))
        if self.chance(0.5):
            self.outputs.append(self.add("MatMul", [flat, weight]))

    def model(self) -> ModelProto:
        steps = [self.convolution, self.convolution, self.transposed, self.scaled, self.rectified]
        for _ in range(self.random.integers(2, 6)):
            steps[self.random.integers(len(steps))]()
        if self.last == "x":
            self.convolution()
        if self.chance(0.6):
            self.head()
        if not self.outputs or self.chance(0.5):
            self.outputs.append(self.last)
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.outputs]
        start = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])
        used = {name for node in self.nodes for name in node.input}
        stored = [numpy_helper.from_array(value, name) for name, value in self.values.items() if name in used]
        graph = helper.make_graph(self.nodes, "g", [start], ends, stored)
        imports = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10 if self.opset > 20 else 8)
        inferred = onnx.shape_inference.infer_shapes(model)
        del inferred.graph.value_info[:]
        onnx.checker.check_model(inferred, full_check=True)
        return inferred


OPSETS = (13, 17, 21)
CHOICES: tuple[dict[str, Any], ...] = (
    {},
    {"per_channel": False},
    {"activations": "int8"},
    {"activations": "uint16"},
    {"activations": "int16", "per_channel": False},
    {"weights": "uint8"},
    {"symmetric_activations": True},
    {"config": "qnn"},
    INTEGERS,
)


@pytest.mark.parametrize(("opset", "settings"), itertools.product(OPSETS, CHOICES), ids=str)
def test_any_model_of_the_kind_is_quantized(opset: int, settings: dict[str, Any]) -> None:
    for seed in range(4):
        model = Builder(1000 * seed + 10 * OPSETS.index(opset) + CHOICES.index(settings), opset).model()
        assert min(decibels(model, **settings).values()) > 20, f"seed {seed}"
        for value in session.run(quantized(model, **settings), random_inputs(model, 0)).values():
            assert np.isfinite(value).all()
