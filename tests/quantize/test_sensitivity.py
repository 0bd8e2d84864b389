"""Which layer loses most: planted bad layers are found, single layers are measured as if they alone were quantized."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper, version_converter

from graphsurgery.devices.session import Session, run
from graphsurgery.errors import InputError, PassError
from graphsurgery.gate.equivalence import compare
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.quantize import Settings, prepare
from graphsurgery.quantize.calibration import Feeds
from graphsurgery.quantize.sensitivity import RANKING_RUNS, exclude_until, layer_losses
from graphsurgery.quantize.sqnr import output_sqnr
from graphsurgery.quantize.switches import Switchable
from graphsurgery.rewrite import BATCH_NOTE

Array = np.ndarray
SETTINGS = [
    Settings(),
    Settings(per_channel=False),
    Settings(activations="int8", symmetric_activations=True),
    Settings(activations="int16", symmetric_activations=True),
    Settings(method="percentile"),
]


@dataclass
class Inputs:
    """Calibration runs, and how many were asked for."""

    feeds: list[dict[str, Array]]
    taken: int = 0

    @property
    def inputs(self) -> Sequence[str]:
        return list(self.feeds[0])

    def __len__(self) -> int:
        return len(self.feeds)

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        for feed in self.feeds:
            self.taken += 1
            yield feed


@dataclass
class Captured:
    """A captured sample in memory."""

    id: str
    tensors: dict[str, Array] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def load(self, name: str) -> Array:
        return self.tensors[name]


def network(bad: str = "", *, opset: int = 17) -> ModelProto:
    """A stem, a block with a shortcut, and two heads that share their weights; `middle` is an output read again.

    The weights of the layer `bad` have an outlier, so that one scale for all of them leaves few steps for the rest.
    """
    random = np.random.default_rng(3)
    weights: dict[str, Array] = {}

    def conv(name: str, x: str, y: str, weight: str, channels: tuple[int, int], size: int = 3) -> onnx.NodeProto:
        if weight not in weights:
            values = random.normal(size=(*channels, size, size)).astype(np.float32) / size
            if name == bad:
                values[0, 0, 0, 0] = 60.0
            weights[weight] = values
            weights[f"{weight}_b"] = random.normal(size=channels[0]).astype(np.float32)
        return helper.make_node("Conv", [x, weight, f"{weight}_b"], [y], name, pads=[size // 2] * 4)

    nodes = [
        conv("stem", "x", "s", "w_stem", (6, 3)),
        helper.make_node("Relu", ["s"], ["sr"], "stem_relu"),
        conv("block", "sr", "b", "w_block", (6, 6)),
        helper.make_node("Add", ["sr", "b"], ["a"], "add"),
        helper.make_node("Relu", ["a"], ["middle"], "add_relu"),
        conv("head_0", "middle", "h0", "w_head", (4, 6), 1),
        helper.make_node("MaxPool", ["middle"], ["m"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        conv("head_1", "m", "h1", "w_head", (4, 6), 1),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "network",
        [tensor("x", 1, [1, 3, 16, 16])],
        [tensor("middle", 1, [1, 6, 16, 16]), tensor("h0", 1, [1, 4, 16, 16]), tensor("h1", 1, [1, 4, 8, 8])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture
def inputs() -> Inputs:
    random = np.random.default_rng(5)
    return Inputs([{"x": random.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(6)])


def quantizer(model: ModelProto, inputs: Inputs, settings: Settings | None = None) -> Callable[..., ModelProto]:
    prepared = prepare("onnxruntime", model, inputs, settings or Settings(), lambda done, total: None)
    inputs.taken = 0
    return prepared


def switched(switchable: Switchable, feed: Mapping[str, Array], switches: Sequence[str]) -> list[Array]:
    session = Session(switchable.model)
    return list(session.run({**feed, **{name: np.array(True) for name in switches}}).values())


# --- switches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_with_all_switches_off_it_is_the_float_model_and_with_all_on_the_quantized_one(
    inputs: Inputs, settings: Settings
) -> None:
    model = network()
    quantized = quantizer(model, inputs, settings)(())
    switchable = Switchable.of(model, quantized)
    feed = inputs.feeds[0]
    everything = [name for layer in switchable.layers for name in layer.switches]
    for off, plain in zip(switched(switchable, feed, []), run(model, feed).values(), strict=True):
        np.testing.assert_array_equal(off, plain)
    for on, rounded in zip(switched(switchable, feed, everything), run(quantized, feed).values(), strict=True):
        np.testing.assert_array_equal(on, rounded)
    assert {"stem", "block", "add", "head_0", "head_1"} <= {layer.name for layer in switchable.layers}


def test_a_layer_alone_gives_what_quantizing_it_alone_gives(inputs: Inputs) -> None:
    model = network()
    quantize = quantizer(model, inputs)
    switchable = Switchable.of(model, quantize(()))
    names = [node.name for node in model.graph.node]
    # between two float layers a Relu stays apart, so that the layers with one behind them are rounded before it
    for name in ("block", "head_0", "head_1"):
        layer = next(layer for layer in switchable.layers if layer.name == name)
        alone = quantize(tuple(other for other in names if other != name))
        feed = inputs.feeds[0]
        for on, wanted in zip(switched(switchable, feed, layer.switches), run(alone, feed).values(), strict=True):
            np.testing.assert_allclose(on, wanted, atol=1e-5)


def test_a_weight_that_two_layers_share_is_rounded_for_one_of_them(inputs: Inputs) -> None:
    model = network()
    switchable = Switchable.of(model, quantizer(model, inputs)(()))
    head = next(layer for layer in switchable.layers if layer.name == "head_1")
    feed = inputs.feeds[0]
    middle, h0, h1 = switched(switchable, feed, head.switches)
    wanted = run(model, feed)
    np.testing.assert_array_equal(h0, wanted["h0"])
    np.testing.assert_array_equal(middle, wanted["middle"])
    assert not np.array_equal(h1, wanted["h1"])


def test_rounding_behind_an_activation_belongs_to_the_layer_before_it(inputs: Inputs) -> None:
    """Quark keeps the Relu: Conv -> Relu -> Q; nothing between the two is rounded."""
    model = network()
    quantized = quantizer(model, inputs)(())
    conv = next(node for node in quantized.graph.node if node.name == "stem")
    (written,) = conv.output
    conv.output[0] = "before_relu"
    at = list(quantized.graph.node).index(conv) + 1
    quantized.graph.node.insert(at, helper.make_node("Relu", ["before_relu"], [written], "stem_relu"))
    switchable = Switchable.of(model, quantized)
    layers = {layer.name: layer for layer in switchable.layers}
    assert "stem_relu" not in layers
    assert set(layers["stem"].switches) & set(layers["block"].switches)  # the tensor between them


def test_a_quantized_model_of_a_later_opset_is_understood(inputs: Inputs) -> None:
    model = network(opset=13)
    quantized = version_converter.convert_version(quantizer(model, inputs)(()), 19)
    switchable = Switchable.of(model, quantized)
    everything = [name for layer in switchable.layers for name in layer.switches]
    feed = inputs.feeds[0]
    assert switchable.layers
    for on, rounded in zip(switched(switchable, feed, everything), run(quantized, feed).values(), strict=True):
        np.testing.assert_array_equal(on, rounded)


def test_names_that_look_like_those_of_switches_are_left_alone(inputs: Inputs) -> None:
    model = network()
    for node in model.graph.node:
        node.output[:] = ["switch_0" if name == "b" else name for name in node.output]
        node.input[:] = ["switch_0" if name == "b" else name for name in node.input]
    switchable = Switchable.of(model, quantizer(model, inputs)(()))
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model))
    feed = inputs.feeds[0]
    for off, plain in zip(switched(switchable, feed, []), run(model, feed).values(), strict=True):
        np.testing.assert_array_equal(off, plain)


def test_an_excluded_layer_is_none(inputs: Inputs) -> None:
    model = network()
    switchable = Switchable.of(model, quantizer(model, inputs)(("block",)))
    assert "block" not in {layer.name for layer in switchable.layers}


# --- ranking -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["stem", "block"])
@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_a_layer_with_an_outlier_in_its_weights_is_ranked_first(
    inputs: Inputs, bad: str, form: Any, request: pytest.FixtureRequest
) -> None:
    if form == "qoperator":
        request.getfixturevalue("exact_int8")
    model = network(bad)
    quantize = quantizer(model, inputs, Settings(format=form, per_channel=False))
    losses = layer_losses(quantize, model, inputs)
    assert losses[0].name == bad
    assert losses[0].op == "Conv"
    assert [loss.sqnr_db for loss in losses] == sorted(loss.sqnr_db for loss in losses)
    assert {"stem", "block", "head_0", "head_1", "add"} <= {loss.name for loss in losses}


def test_both_forms_say_much_the_same_of_a_layer(inputs: Inputs) -> None:
    model = network()
    qdq, integer = (
        {loss.name: loss.sqnr_db for loss in layer_losses(quantizer(model, inputs, settings), model, inputs)}
        for settings in (Settings(per_channel=False), Settings(per_channel=False, format="qoperator"))
    )
    for name in ("block", "head_0", "head_1"):
        assert qdq[name] == pytest.approx(integer[name], abs=1.5)


def test_what_counts_is_the_worst_output(inputs: Inputs) -> None:
    model = network("head_0")  # whose weights are also those of head_1
    losses = layer_losses(quantizer(model, inputs, Settings(per_channel=False)), model, inputs)
    quantize = quantizer(model, inputs, Settings(per_channel=False))
    names = [node.name for node in model.graph.node]
    alone = output_sqnr(quantize(tuple(n for n in names if n != "head_0")), model, Inputs(inputs.feeds[:RANKING_RUNS]))
    assert alone["middle"] > alone["h0"]  # only the rounding of what it reads shows there
    assert next(loss.sqnr_db for loss in losses if loss.name == "head_0") == pytest.approx(alone["h0"], abs=0.1)


def test_weights_that_are_others_and_not_only_rounded_are_quantized_layer_by_layer(inputs: Inputs) -> None:
    """As equalization leaves them: among float layers such a layer would compute nonsense."""
    model = network()
    quantize = quantizer(model, inputs)
    asked: list[tuple[str, ...]] = []

    def equalizing(names: tuple[str, ...]) -> ModelProto:
        asked.append(names)
        quantized = quantize(names)
        for tensor in quantized.graph.initializer:
            if tensor.name == "w_block_scale":
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(2), tensor.name))
        return quantized

    losses = layer_losses(equalizing, model, inputs)
    assert len(asked) == 1 + len(losses)
    assert losses[0].name == "block"
    names = {node.name for node in model.graph.node}
    assert all(len(names - set(excluded)) == 1 for excluded in asked[1:])


def test_weights_that_are_only_rounded_take_one_quantization(inputs: Inputs) -> None:
    model = network("block")
    quantize = quantizer(model, inputs, Settings(per_channel=False))
    asked: list[tuple[str, ...]] = []
    layer_losses(lambda names: asked.append(names) or quantize(names), model, inputs)  # type: ignore[func-returns-value]
    assert asked == [()]


def test_a_ranking_reads_a_few_runs_and_tells_how_far_it_is(inputs: Inputs) -> None:
    model = network()
    quantize = quantizer(model, inputs)
    seen: list[tuple[int, int]] = []
    losses = layer_losses(quantize, model, inputs, lambda done, total: seen.append((done, total)))
    assert inputs.taken == RANKING_RUNS < len(inputs)
    assert [done for done, _ in seen] == list(range(1, len(losses) * RANKING_RUNS + 1))
    assert {total for _, total in seen} == {len(losses) * RANKING_RUNS}


def test_a_model_with_nothing_quantized_has_no_ranking(inputs: Inputs) -> None:
    model = network()
    with pytest.raises(PassError, match="nothing that has a name is quantized"):
        layer_losses(lambda names: model, model, inputs)


# --- exclusion ---------------------------------------------------------------------------------------------------


def test_no_layer_is_excluded_where_the_goal_is_met(inputs: Inputs) -> None:
    model = network()
    found = exclude_until(quantizer(model, inputs), model, inputs, 10.0)
    assert found.excluded == ()
    assert min(found.sqnr_db.values()) >= 10.0


def test_the_bad_layer_alone_is_excluded_where_that_is_enough(inputs: Inputs) -> None:
    model = network("block")
    quantize = quantizer(model, inputs, Settings(per_channel=False))
    before = min(output_sqnr(quantize(()), model, inputs).values())
    goal = before + 6
    found = exclude_until(quantize, model, inputs, goal)
    assert found.excluded == ("block",)
    assert min(found.sqnr_db.values()) >= goal
    assert output_sqnr(found.model, model, inputs) == found.sqnr_db
    assert found.model == quantize(("block",))


def test_a_higher_goal_takes_more_layers_and_one_less_is_not_enough(inputs: Inputs) -> None:
    model = network()
    quantize = quantizer(model, inputs)
    asked: list[tuple[str, ...]] = []

    def counting(names: tuple[str, ...]) -> ModelProto:
        asked.append(names)
        return quantize(names)

    before = min(output_sqnr(quantize(()), model, inputs).values())
    goal = before + 3
    found = exclude_until(counting, model, inputs, goal)
    assert found.excluded
    assert min(output_sqnr(quantize(found.excluded[:-1]), model, inputs).values()) < goal
    assert len(asked) <= 5  # all, then a bisection among 6 layers


def test_a_goal_out_of_reach_is_refused_with_the_best_there_was(inputs: Inputs) -> None:
    model = network()
    stubborn = quantizer(model, inputs)(())
    with pytest.raises(PassError, match=r"output '\w+' reaches \d+\.\d dB at best, .* the goal is 90 dB"):
        exclude_until(lambda names: stubborn, model, inputs, 90.0)


@pytest.mark.parametrize("goal", [math.nan, math.inf])
def test_a_goal_that_is_no_number_is_refused(inputs: Inputs, goal: float) -> None:
    model = network()
    with pytest.raises(InputError, match="a goal of"):
        exclude_until(quantizer(model, inputs), model, inputs, goal)


def test_progress_of_an_exclusion_goes_forward_to_its_end(inputs: Inputs) -> None:
    model = network()
    quantize = quantizer(model, inputs)
    seen: list[float] = []
    before = min(output_sqnr(quantize(()), model, inputs).values())
    exclude_until(quantize, model, inputs, before + 3, lambda done, total: seen.append(done / total))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


# --- SQNR --------------------------------------------------------------------------------------------------------


def test_the_ratio_is_that_of_the_comparisons(inputs: Inputs) -> None:
    model = network()
    quantized = quantizer(model, inputs)(())
    one = Inputs(inputs.feeds[:1])
    reports = compare(run(model, one.feeds[0]), run(quantized, one.feeds[0]), Tolerances.parse({})).tensors
    found = output_sqnr(quantized, model, one)
    assert found == {report.name: pytest.approx(report.sqnr_db) for report in reports}


def test_runs_are_summed_up_and_not_averaged(inputs: Inputs) -> None:
    model = network()
    quantized = quantizer(model, inputs)(())
    signal = noise = 0.0
    for feed in inputs.feeds:
        wanted, got = run(model, feed)["h0"].astype(float), run(quantized, feed)["h0"].astype(float)
        signal, noise = signal + (wanted**2).sum(), noise + ((wanted - got) ** 2).sum()
    assert output_sqnr(quantized, model, inputs)["h0"] == pytest.approx(10 * math.log10(signal / noise))


def test_equal_outputs_have_no_noise_and_nan_is_all_noise(inputs: Inputs) -> None:
    model = network()
    assert set(output_sqnr(model, model, inputs).values()) == {math.inf}
    broken = ModelProto()
    broken.CopyFrom(model)
    bias = next(tensor for tensor in broken.graph.initializer if tensor.name == "w_head_b")
    bias.CopyFrom(numpy_helper.from_array(np.array([0, math.nan, 0, 0], np.float32), bias.name))
    found = output_sqnr(broken, model, inputs)
    assert (found["middle"], found["h0"], found["h1"]) == (math.inf, -math.inf, -math.inf)


def test_rows_that_fill_up_a_batch_do_not_count() -> None:
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], "gemm")],
        "head",
        [tensor("x", 1, [4, 3])],
        [tensor("y", 1, [4, 2])],
        [numpy_helper.from_array(np.array([[1, 2], [3, 4], [5, 6]], np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {BATCH_NOTE: '{"size": 4}'})
    rows = np.array([[0.11, 0.52, 0.97], [0.31, -0.74, 0.2], [-0.4, 0.6, 0.83]], np.float32)
    feeds = Feeds(model, [Captured("1", {"x": rows})])
    quantized = prepare("onnxruntime", model, feeds, Settings(), lambda done, total: None)(())
    ((given, count),) = feeds.runs()
    assert count == 3
    wanted, got = (run(each, given)["y"][:3].astype(float) for each in (model, quantized))
    expected = 10 * math.log10((wanted**2).sum() / ((wanted - got) ** 2).sum())
    assert output_sqnr(quantized, model, feeds)["y"] == pytest.approx(expected)


def test_an_output_that_is_gone_or_of_another_shape_is_named(inputs: Inputs) -> None:
    model, other = network(), network()
    del other.graph.output[0]
    with pytest.raises(PassError, match="no output 'middle'"):
        output_sqnr(other, model, inputs)


def test_no_run_at_all_is_refused() -> None:
    model = network()
    with pytest.raises(InputError, match="nothing to run"):
        output_sqnr(model, model, Inputs([]))
