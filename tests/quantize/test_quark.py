"""Backend `quark`: what it asks of amd-quark, checked with a stand-in, and what the real one gives if it is there."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphsurgery.devices.session import Session
from graphsurgery.errors import InputError, MissingTool, PassError
from graphsurgery.quantize import Settings, quark

# A quark.onnx that writes what it was asked to do into call.json beside it, and copies the model as `MAKE` says.
STAND_IN = """
import copy, csv, json, logging, os, pathlib
import numpy, onnx

print("a banner")
os.write(2, b"a warning from native code")
logging.basicConfig(level=logging.INFO, force=True)
logger = logging.getLogger("stand-in")

class _Names(type):
    def __getattr__(cls, name):
        return f"{cls.__name__}.{name}"
class CalibMethod(metaclass=_Names): pass
class ScaleType(metaclass=_Names): pass
class QuantGranularity(metaclass=_Names): pass

class Spec:
    def __init__(self, symmetric=None, scale_type=ScaleType.Float32, calibration_method=CalibMethod.Percentile,
                 quant_granularity=QuantGranularity.Tensor):
        self.data_type = type(self).__name__
        self.symmetric = self.data_type[0] != "U" if symmetric is None else symmetric
        self.scale_type, self.calibration_method = scale_type, calibration_method
        self.quant_granularity = quant_granularity
class Int8Spec(Spec): pass
class UInt8Spec(Spec): pass
class Int16Spec(Spec): pass
class UInt16Spec(Spec): pass
def power_of_two():
    return Int8Spec(True, ScaleType.PowerOf2, CalibMethod.MinMSE)

class QLayerConfig:
    def __init__(self, input_tensors=None, activation=None, weight=None):
        self.input_tensors, self.activation, self.weight = input_tensors, activation, weight

class QConfig:
    def __init__(self, global_config, exclude=None, algo_config=None, **extra_options):
        self.global_config, self.exclude = global_config, exclude or []
        self.algo_config, self.extra_options = algo_config or [], extra_options

XINT8_QCONFIG = QConfig(QLayerConfig(activation=power_of_two(), weight=power_of_two()), extra_options={"Own": 1})
XINT8_ADAROUND_QCONFIG = copy.deepcopy(XINT8_QCONFIG)
XINT8_ADAROUND_QCONFIG.algo_config = ["adaround"]
A8W8_QCONFIG = QConfig(QLayerConfig(activation=Int8Spec(), weight=Int8Spec()), extra_options={"FoldRelu": True})

class ModelQuantizer:
    def __init__(self, config):
        self.config = config
    def quantize_model(self, model_input, model_output=None, calibration_data_reader=None):
        pathlib.Path("quantized_info.csv").write_text("dropped where it stands")
        feeds = list(iter(calibration_data_reader.get_next, None))
        calibration_data_reader.rewind()
        model = onnx.load(model_input)
        record = {
            "activation": vars(self.config.global_config.input_tensors),
            "weight": vars(self.config.global_config.weight),
            "exclude": self.config.exclude,
            "algorithms": self.config.algo_config,
            "options": self.config.extra_options["extra_options"],
            "feeds": [{k: [str(v.dtype), v.tolist()] for k, v in feed.items()} for feed in feeds],
            "length": len(calibration_data_reader),
            "again": calibration_data_reader.get_next() is not None,
            "nodes": [node.name for node in model.graph.node],
            "reads": {node.name: list(node.input) for node in model.graph.node},
        }
        pathlib.Path(CALL).write_text(json.dumps(record))
        make(model)
        model.metadata_props.add(key="left", value="by the quantizer")
        model.opset_import.add(domain="com.ms.left.over", version=1)
        if model_output:
            onnx.save(model, model_output)
def make(model):
"""

MODEL = """\
<ir_version: 8, opset_import: ["": 17]>
g (float[1,2,6,6] x, float[1,4,6,6] skip) => (float[1,4,6,6] late, float[1,4,6,6] early)
{ [first] early = Conv<pads=[1,1,1,1], kernel_shape=[3,3]>(x, w)
  [relu] r = Relu(early)
  sum = Add(r, skip)
  [second] s = Conv<pads=[1,1,1,1], kernel_shape=[3,3]>(sum, v)
  [third] late = Conv<pads=[1,1,1,1], kernel_shape=[3,3]>(s, v) }
"""


@dataclass
class Feeds:
    """Runs that lie in a list."""

    runs: Sequence[Mapping[str, np.ndarray]]

    @property
    def inputs(self) -> Sequence[str]:
        return tuple(self.runs[0])

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        return iter(self.runs)


def small_model() -> ModelProto:
    model = onnx.parser.parse_model(MODEL)
    random = np.random.default_rng(0)
    for name, shape in (("w", (4, 2, 3, 3)), ("v", (4, 4, 3, 3))):
        values = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    model.metadata_props.add(key="graphsurgery.batch", value='{"size": 1}')
    return model


def small_feeds(count: int = 3) -> Feeds:
    random = np.random.default_rng(1)
    shapes = {"x": (1, 2, 6, 6), "skip": (1, 4, 6, 6)}
    return Feeds([{n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()} for _ in range(count)])


def nothing(done: int, total: int) -> None:
    """Take note of no progress."""


class StandIn:
    """A package `quark` in a folder of its own, found before any that is installed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.makes("pass")

    def makes(self, body: str, before: str = "") -> None:
        """Set what it does to the model, and what happens when it is imported."""
        (self._folder / "quark" / "onnx").mkdir(parents=True, exist_ok=True)
        (self._folder / "quark" / "__init__.py").write_text("", encoding="utf-8")
        call = f"CALL = {str(self._folder / 'call.json')!r}\n"
        code = before + call + STAND_IN + f"    {body}\n"
        (self._folder / "quark" / "onnx" / "__init__.py").write_text(code, encoding="utf-8")

    @property
    def call(self) -> dict[str, Any]:
        """What it was asked to do."""
        record: dict[str, Any] = json.loads((self._folder / "call.json").read_text(encoding="utf-8"))
        return record


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    (tmp_path / "packages").mkdir()
    for name in [name for name in sys.modules if name.partition(".")[0] == "quark"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    return StandIn(tmp_path / "packages")


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", quark.CONFIGS)
def test_takes_every_configuration_that_any_onnxruntime_can_run(config: str) -> None:
    quark.check(Settings(config=config))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(config="BF16"), "config must be one of XINT8, XINT8_ADAROUND, "),
        (Settings(format="qoperator"), "backend 'onnxruntime' writes qoperator"),
        (Settings(method="percentile"), "from min_mse or minmax"),
        (Settings(method="entropy", config="XINT8_ADAQUANT"), "config XINT8_ADAQUANT has power-of-two scales"),
        (Settings(per_channel=True), "one scale per tensor; A8W8"),
        (Settings(activations="int16"), "A16W8 has 16 bits"),
        (Settings(weights="uint8"), "config XINT8 has int8"),
        (Settings(symmetric_activations=False), "is symmetric"),
        (Settings(symmetric_weights=False), "is symmetric"),
        (Settings(config="A8W8", method="min_mse"), "which config XINT8 has and A8W8 not"),
    ],
)
def test_refuses_what_the_configuration_can_not_do(settings: Settings, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        quark.check(settings)
    with pytest.raises(ValueError, match=said):
        quark.quantize(small_model(), small_feeds(), settings, nothing)


# --- the call, with a stand-in ------------------------------------------------------------------------------------


def test_asks_for_xint8_when_nothing_is_said(stand_in: StandIn) -> None:
    feeds = small_feeds()
    quark.quantize(small_model(), feeds, Settings(), nothing)
    power_of_two = {
        "data_type": "Int8Spec",
        "symmetric": True,
        "scale_type": "ScaleType.PowerOf2",
        "calibration_method": "CalibMethod.MinMSE",
        "quant_granularity": "QuantGranularity.Tensor",
    }
    call = stand_in.call
    assert call["activation"] == power_of_two
    assert call["weight"] == power_of_two
    assert call["exclude"] == []
    assert call["algorithms"] == []
    assert call["options"] == {"Own": 1, "SimplifyModel": False, "PrintSummary": False}
    assert call["length"] == len(feeds)
    assert call["again"]
    arrived = [list(run.values()) for run in call["feeds"]]  # inside, tensors have other names
    assert arrived == [[["float32", value.tolist()] for value in run.values()] for run in feeds]


@pytest.mark.parametrize(
    ("settings", "part", "said"),
    [
        (Settings(config="XINT8_ADAROUND"), "algorithms", ["adaround"]),
        (Settings(method="minmax"), "activation", {"calibration_method": "CalibMethod.MinMax"}),
        (Settings(method="minmax"), "weight", {"calibration_method": "CalibMethod.MinMax"}),
        (Settings(activations="uint8"), "activation", {"data_type": "UInt8Spec", "scale_type": "ScaleType.PowerOf2"}),
        (Settings(activations="uint8"), "activation", {"symmetric": True, "calibration_method": "CalibMethod.MinMSE"}),
        (
            Settings(config="A8W8"),
            "activation",
            {"data_type": "Int8Spec", "calibration_method": "CalibMethod.Percentile"},
        ),
        (Settings(config="A8W8", method="entropy"), "activation", {"calibration_method": "CalibMethod.Entropy"}),
        (Settings(config="A8W8", method="entropy"), "weight", {"calibration_method": "CalibMethod.Percentile"}),
        (Settings(config="A8W8", per_channel=True), "weight", {"quant_granularity": "QuantGranularity.Channel"}),
        (Settings(config="A8W8", per_channel=True), "activation", {"quant_granularity": "QuantGranularity.Tensor"}),
        (Settings(config="A8W8", activations="uint16"), "activation", {"data_type": "UInt16Spec", "symmetric": True}),
        (Settings(config="A8W8", weights="int16"), "weight", {"data_type": "Int16Spec"}),
        (Settings(config="A8W8", symmetric_activations=False), "activation", {"symmetric": False}),
        (Settings(config="A8W8", symmetric_weights=False), "weight", {"symmetric": False}),
        (Settings(config="A8W8"), "options", {"FoldRelu": True, "SimplifyModel": False}),
        (Settings(config="U8S8_AAWS"), "activation", {"data_type": "UInt8Spec", "symmetric": False}),
        (Settings(config="U8S8_AAWS"), "weight", {"data_type": "Int8Spec", "symmetric": True}),
        (Settings(config="S8S8_AAWS"), "activation", {"data_type": "Int8Spec", "symmetric": False}),
        (Settings(config="S8S8_AAWS"), "options", {"Percentile": 99.9999, "ForceQuantizeNoInputCheck": True}),
    ],
)
def test_puts_settings_into_the_configuration(stand_in: StandIn, settings: Settings, part: str, said: Any) -> None:
    quark.quantize(small_model(), small_feeds(1), settings, nothing)
    found = stand_in.call[part]
    assert found == said if isinstance(said, list) else {**found, **said} == found


def test_excludes_nodes_by_pattern_and_by_type(stand_in: StandIn) -> None:
    quark.quantize(small_model(), small_feeds(1), Settings(exclude=("fir*", "sec?nd"), exclude_ops=("Add",)), nothing)
    call = stand_in.call
    assert call["nodes"][2], "the node without a name was to get one"
    assert call["exclude"] == ["first", call["nodes"][2], "second"]


def test_gives_an_excluded_node_a_weight_of_its_own(stand_in: StandIn) -> None:
    quark.quantize(small_model(), small_feeds(1), Settings(exclude=("second",)), nothing)
    reads = stand_in.call["reads"]
    assert reads["second"][0] != reads["third"][0]
    assert reads["second"][1] != reads["third"][1]


def test_keeps_a_relu_float_that_would_clip_an_output_with_it(stand_in: StandIn) -> None:
    quark.quantize(small_model(), small_feeds(1), Settings(config="U8S8_AAWS"), nothing)
    assert stand_in.call["exclude"] == ["relu"]
    quark.quantize(small_model(), small_feeds(1), Settings(config="U8S8_AAWS", symmetric_activations=True), nothing)
    assert stand_in.call["exclude"] == []


def test_leaves_the_given_model_alone(stand_in: StandIn) -> None:
    model, before = small_model(), small_model()
    quark.quantize(model, small_feeds(1), Settings(exclude=("second",)), nothing)
    assert model == before


def test_keeps_interface_notes_and_producer_of_the_model(stand_in: StandIn) -> None:
    stand_in.makes("late = model.graph.output[0]; del model.graph.output[0]; model.graph.output.append(late)")
    model = small_model()
    quantized = quark.quantize(model, small_feeds(1), Settings(), nothing)
    assert list(quantized.graph.input) == list(model.graph.input)
    assert list(quantized.graph.output) == list(model.graph.output)
    assert list(quantized.metadata_props) == list(model.metadata_props)
    assert [(entry.domain, entry.version) for entry in quantized.opset_import] == [("", 17)]
    assert quantized.producer_name == model.producer_name


def test_counts_the_feeds(stand_in: StandIn) -> None:
    seen: list[tuple[int, int]] = []
    quark.quantize(small_model(), small_feeds(), Settings(), lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_feeds_of_any_type_and_shape_arrive(stand_in: StandIn) -> None:
    run = {"x": np.zeros((0, 3), np.float32), "skip": np.array(7, np.int64), "flag": np.array([True, False, True])}
    quark.quantize(small_model(), Feeds([run, run]), Settings(), nothing)
    arrived = [["float32", []], ["int64", 7], ["bool", [True, False, True]]]
    assert [list(feed.values()) for feed in stand_in.call["feeds"]] == [arrived, arrived]


def test_prints_nothing_and_leaves_no_file(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    quark.quantize(small_model(), small_feeds(1), Settings(), nothing)
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "here").iterdir()) == []
    assert list((tmp_path / "temporary").iterdir()) == []


def test_an_interrupted_run_leaves_no_file(stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quark.quantize(small_model(), small_feeds(1), Settings(), interrupt)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "raise ValueError('no such thing\\nand a second line')",
            "backend 'quark': no such thing; quantize this part in",
        ),
        ("logger.error('took another method instead')", "backend 'quark': took another method instead; "),
        ("print('at the end', flush=True); os._exit(9)", "it died with exit code 9: "),
        ("del model.graph.output[1:]", "it changed the outputs late, early into late"),
        ("model.graph.node[1].domain = 'com.amd.quark'", "need operators of com.amd.quark"),
    ],
)
def test_a_failure_is_one_line(stand_in: StandIn, body: str, said: str) -> None:
    stand_in.makes(body)
    with pytest.raises(PassError) as caught:
        quark.quantize(small_model(), small_feeds(1), Settings(), nothing)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_quantizer_that_never_ends_is_stopped_and_the_node_named(stand_in: StandIn) -> None:
    stand_in.makes("node = model.graph.node[3]\n    while node: pass")
    with pytest.raises(
        PassError, match=r"^backend 'quark': node 'second', a Conv: it was stopped after 0\.5 s, .*seconds"
    ):
        quark.quantize(small_model(), small_feeds(1), Settings(seconds=0.5), nothing)


def test_a_bias_without_a_scale_for_each_value_keeps_its_layer_float(stand_in: StandIn) -> None:
    model = onnx.parser.parse_model(
        MODEL.replace("[third] late = Conv", "[third] l = Conv").replace(
            "(s, v) }", "(s, v)\n  [up] late = ConvTranspose<group=4>(l, u, b) }"
        )
    )
    for name, shape in (("w", (4, 2, 3, 3)), ("v", (4, 4, 3, 3)), ("u", (4, 1, 1, 1)), ("b", (4,))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    quark.quantize(model, small_feeds(1), Settings(config="A8W8", per_channel=True), nothing)
    assert "up" in stand_in.call["exclude"]
    quark.quantize(model, small_feeds(1), Settings(), nothing)
    assert "up" not in stand_in.call["exclude"]


def test_a_library_that_does_not_compile_is_a_missing_tool(stand_in: StandIn) -> None:
    stand_in.makes("pass", before="raise RuntimeError('JIT compilation failed.')\n")
    with pytest.raises(MissingTool, match=r"can't be loaded \(JIT compilation failed. It needs a C\+\+ compiler"):
        quark.quantize(small_model(), small_feeds(1), Settings(), nothing)


def test_its_absence_says_which_command_brings_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHSURGERY_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "quark", None)
    with pytest.raises(MissingTool, match="not installed: python -m graphsurgery toolchain install quark"):
        quark.quantize(small_model(), small_feeds(), Settings(), nothing)


def test_an_environment_of_its_own_is_lent_this_package_alone(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the stand-in lies on the path of this process, which another environment doesn't see
    monkeypatch.setitem(sys.modules, "quark", None)
    monkeypatch.setattr(quark, "require", lambda name, place: Path(sys.executable))
    with pytest.raises(MissingTool, match=r"backend 'quark': it can't be loaded \(No module named 'quark'\)"):
        quark.quantize(small_model(), small_feeds(1), Settings(), nothing)


def test_refuses_an_opset_without_quantizelinear(stand_in: StandIn) -> None:
    model = small_model()
    model.opset_import[0].version = 9
    with pytest.raises(InputError, match="opset 9 has no QuantizeLinear"):
        quark.quantize(model, small_feeds(), Settings(), nothing)


def test_refuses_float16(stand_in: StandIn) -> None:
    model = small_model()
    model.graph.initializer[0].data_type = TensorProto.FLOAT16
    with pytest.raises(InputError, match="tensor 'w' is float16"):
        quark.quantize(model, small_feeds(), Settings(), nothing)


# --- the real one -----------------------------------------------------------------------------------------------


def sqnr(model: ModelProto, quantized: ModelProto, feeds: Feeds) -> dict[str, float]:
    onnx.checker.check_model(quantized, full_check=True)
    reference, session = Session(model), Session(quantized)
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for run in feeds:
        got = session.run(run)
        for name, value in reference.run(run).items():
            signal[name] = signal.get(name, 0.0) + float(np.sum(value.astype(np.float64) ** 2))
            noise[name] = noise.get(name, 0.0) + float(np.sum((value.astype(np.float64) - got[name]) ** 2))
    return {name: 10 * np.log10(signal[name] / noise[name]) for name in signal}


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.toolchain("quark")
def test_xint8_has_scales_that_are_powers_of_two_and_runs_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model, feeds = small_model(), small_feeds(8)
    quantized = quark.quantize(model, feeds, Settings(), nothing)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    values = constants(quantized)
    rounding = [node for node in quantized.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(rounding) > 8
    for node in rounding:
        assert np.log2(values[node.input[1]]) % 1 == 0
        assert values[node.input[2]].dtype == np.int8
    assert {node.domain for node in quantized.graph.node} == {""}
    assert min(sqnr(model, quantized, feeds).values()) > 25


@pytest.mark.toolchain("quark")
def test_an_excluded_node_computes_with_its_float_weight() -> None:
    model, feeds = small_model(), small_feeds(4)
    quantized = quark.quantize(model, feeds, Settings(exclude=("second",)), nothing)
    values = constants(quantized)
    reads = {node.name: list(node.input) for node in quantized.graph.node}
    assert np.array_equal(values[reads["second"][1]], constants(model)["v"])
    assert reads["third"][1] not in values
    assert min(sqnr(model, quantized, feeds).values()) > 25


@pytest.mark.toolchain("quark")
@pytest.mark.parametrize(
    ("settings", "least"),
    [
        (Settings(config="A16W8", per_channel=True), 40),
        (Settings(config="U8S8_AAWS"), 28),
        (Settings(config="A8W8", method="minmax", activations="uint8", symmetric_activations=False), 28),
    ],
)
def test_other_configurations_run_anywhere_too(settings: Settings, least: float) -> None:
    model, feeds = small_model(), small_feeds(8)
    quantized = quark.quantize(model, feeds, settings, nothing)
    assert {node.domain for node in quantized.graph.node} <= {"", "com.microsoft"}
    assert min(sqnr(model, quantized, feeds).values()) > least


@pytest.mark.toolchain("quark")
def test_a_weight_that_many_nodes_share_is_not_scaled_for_each() -> None:
    weight = np.random.default_rng(3).normal(size=(4, 4, 3, 3)).astype(np.float32)
    weight[0] *= 30  # something to equalize
    convolution = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = []
    for level in ("a", "b", "c"):
        nodes += [
            helper.make_node("Conv", [f"x_{level}", "w"], [f"c_{level}"], **convolution),
            helper.make_node("Relu", [f"c_{level}"], [f"r_{level}"]),
            helper.make_node("Conv", [f"r_{level}", "v"], [f"y_{level}"], **convolution),
        ]
    of = [helper.make_tensor_value_info(f"x_{level}", TensorProto.FLOAT, [1, 4, 6, 6]) for level in "abc"]
    to = [helper.make_tensor_value_info(f"y_{level}", TensorProto.FLOAT, [1, 4, 6, 6]) for level in "abc"]
    weights = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(weight, "v")]
    graph = helper.make_graph(nodes, "head", of, to, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    random = np.random.default_rng(4)
    feeds = Feeds([{info.name: random.normal(size=(1, 4, 6, 6)).astype(np.float32) for info in of} for _ in range(4)])
    assert min(sqnr(model, quark.quantize(model, feeds, Settings(), nothing), feeds).values()) > 20


@pytest.mark.toolchain("quark")
def test_a_model_that_it_can_not_run_is_an_error_and_not_another_method() -> None:
    feeds = Feeds([{"x": np.zeros((1, 2, 5, 5), np.float32), "skip": np.zeros((1, 4, 6, 6), np.float32)}])
    with pytest.raises(PassError, match=r"^backend 'quark': .*quantize this part in another way"):
        quark.quantize(small_model(), feeds, Settings(), nothing)
