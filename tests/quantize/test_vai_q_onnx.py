"""Backend `vai_q_onnx`, whose package is on no index: a stand-in notes every argument of the call."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from graphsurgery.errors import MissingTool, PassError
from graphsurgery.quantize import Settings, vai_q_onnx

STAND_IN = """
import enum, json, pathlib
import onnx

print("[VAI_Q_ONNX_INFO]: a banner")

class QuantFormat(enum.Enum):
    QOperator, QDQ = 0, 1
class QuantType(enum.Enum):
    QInt8, QUInt8 = 0, 1
class CalibrationMethod(enum.Enum):
    MinMax, Entropy, Percentile = 0, 1, 2
class PowerOfTwoMethod(enum.Enum):
    NonOverflow, MinMSE = 0, 1

def quantize_static(model_input, model_output, calibration_data_reader=None, quant_format=None, calibrate_method=None,
                    activation_type=None, weight_type=None, per_channel=False, nodes_to_exclude=(), SWITCH=False,
                    extra_options=None):
    given = {name: str(value) if isinstance(value, enum.Enum) else value for name, value in locals().items()}
    reader = given.pop("calibration_data_reader")
    given["feeds"] = [{k: v.tolist() for k, v in feed.items()} for feed in iter(reader.get_next, None)]
    pathlib.Path(CALL).write_text(json.dumps(given))
    model = onnx.load(model_input)
    model.doc_string = "quantized"
    BODY
    onnx.save(model, model_output)
"""

MODEL = """\
<ir_version: 8, opset_import: ["": 17]>
g (float[1,2,4,4] x) => (float[1,2,4,4] y, float[1,2,4,4] c)
{ [first] c = Conv<kernel_shape=[1,1]>(x, w)
  [relu] r = Relu(c)
  [second] y = Conv<kernel_shape=[1,1]>(r, v) }
"""


class Feeds:
    """Two runs."""

    inputs = ("x",)

    def __init__(self) -> None:
        self._runs = [{"x": np.full((1, 2, 4, 4), value, np.float32)} for value in (0.5, -1.5)]

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Any:
        return iter(self._runs)


def small_model() -> ModelProto:
    model = onnx.parser.parse_model(MODEL)
    for name in ("w", "v"):
        model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), name))
    return model


class StandIn:
    """A package `vai_q_onnx` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.is_of()

    def is_of(self, switch: str = "enable_ipu_cnn", body: str = "pass") -> None:
        """Set what the argument for CNNs on the NPU is called, and what is done to the model."""
        (self._folder / "vai_q_onnx").mkdir(parents=True, exist_ok=True)
        code = f"CALL = {str(self._folder / 'call.json')!r}\n{STAND_IN}"
        code = code.replace("SWITCH", switch).replace("BODY", body)
        (self._folder / "vai_q_onnx" / "__init__.py").write_text(code, encoding="utf-8")

    @property
    def call(self) -> dict[str, Any]:
        """The arguments of the call."""
        record: dict[str, Any] = json.loads((self._folder / "call.json").read_text(encoding="utf-8"))
        return record


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    (tmp_path / "packages").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "packages")
    return StandIn(tmp_path / "packages")


def quantize(settings: Settings) -> ModelProto:
    return vai_q_onnx.quantize(small_model(), Feeds(), settings, lambda done, total: None)


def test_calls_it_as_amd_documents_for_the_npu(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    quantized = quantize(Settings())
    call = stand_in.call
    assert Path(call.pop("model_input")).name == "float.onnx"
    assert Path(call.pop("model_output")).name == "quantized.onnx"
    feeds = [list(feed.values()) for feed in call.pop("feeds")]  # inside, tensors have other names
    assert feeds == [[value.tolist() for value in feed.values()] for feed in Feeds()]
    assert call == {
        "quant_format": "QuantFormat.QDQ",
        "calibrate_method": "PowerOfTwoMethod.MinMSE",
        "activation_type": "QuantType.QUInt8",
        "weight_type": "QuantType.QInt8",
        "per_channel": False,
        "nodes_to_exclude": [],
        "enable_ipu_cnn": True,
        "extra_options": {"ActivationSymmetric": True},
    }
    assert quantized.doc_string == "quantized"
    assert [info.name for info in quantized.graph.output] == ["y", "c"]
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(method="min_mse"), {"calibrate_method": "PowerOfTwoMethod.MinMSE", "enable_ipu_cnn": True}),
        (Settings(method="minmax"), {"calibrate_method": "CalibrationMethod.MinMax", "enable_ipu_cnn": False}),
        (Settings(method="entropy"), {"calibrate_method": "CalibrationMethod.Entropy"}),
        (Settings(method="percentile"), {"calibrate_method": "CalibrationMethod.Percentile", "extra_options": {}}),
        (Settings(method="minmax", format="qoperator"), {"quant_format": "QuantFormat.QOperator"}),
        (Settings(activations="int8"), {"activation_type": "QuantType.QInt8", "weight_type": "QuantType.QInt8"}),
        (Settings(method="minmax", weights="uint8"), {"weight_type": "QuantType.QUInt8"}),
        (Settings(method="minmax", per_channel=True), {"per_channel": True}),
        (
            Settings(method="minmax", symmetric_activations=True, symmetric_weights=False),
            {"extra_options": {"ActivationSymmetric": True, "WeightSymmetric": False}, "nodes_to_exclude": []},
        ),
        (Settings(exclude=("sec*",)), {"nodes_to_exclude": ["second"]}),
        (Settings(exclude_ops=("Conv",)), {"nodes_to_exclude": ["first", "second"]}),
        (Settings(method="minmax"), {"nodes_to_exclude": ["relu"]}),  # it would clip the output c
    ],
)
def test_maps_the_settings(stand_in: StandIn, settings: Settings, said: dict[str, Any]) -> None:
    quantize(settings)
    call = stand_in.call
    assert {**call, **said} == call


def test_older_versions_call_the_switch_enable_dpu(stand_in: StandIn) -> None:
    stand_in.is_of(switch="enable_dpu")
    quantize(Settings())
    assert stand_in.call["enable_dpu"] is True
    assert "enable_ipu_cnn" not in stand_in.call


def test_a_failure_is_one_line(stand_in: StandIn) -> None:
    stand_in.is_of(body="raise RuntimeError('no such operator\\nTraceback')")
    with pytest.raises(PassError, match=r"^backend 'vai_q_onnx': no such operator; quantize this part .*$"):
        quantize(Settings())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(config="XINT8"), "no named configurations; backend 'quark' has"),
        (Settings(activations="int16"), "backend 'quark' has 16 bits"),
        (Settings(weights="uint16"), "backend 'quark' has 16 bits"),
        (Settings(per_channel=True), "one per tensor; use method minmax"),
        (Settings(weights="uint8"), "takes int8; use method minmax"),
        (Settings(symmetric_activations=False), "is symmetric; use method minmax"),
        (Settings(symmetric_weights=False, method="min_mse"), "is symmetric; use method minmax"),
        (Settings(format="qoperator"), "takes qdq; use method minmax"),
    ],
)
def test_refuses_what_the_flow_can_not_do(settings: Settings, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vai_q_onnx.check(settings)
    with pytest.raises(ValueError, match=said):
        quantize(settings)


def test_its_absence_says_where_it_comes_from_and_what_came_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vai_q_onnx", None)
    with pytest.raises(MissingTool) as caught:
        quantize(Settings())
    assert caught.value.exit_code == 3
    assert "comes with AMD's Ryzen AI installer" in str(caught.value)
    assert "backend 'quark' is its successor" in str(caught.value)


def test_its_absence_shows_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vai_q_onnx", None)
    seen: list[int] = []
    with pytest.raises(MissingTool):
        vai_q_onnx.quantize(small_model(), Feeds(), Settings(), lambda done, total: seen.append(done))
    assert seen == []
