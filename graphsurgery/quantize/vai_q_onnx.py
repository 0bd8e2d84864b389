"""AMD's older quantizer vai_q_onnx, as it came with the Ryzen AI installer; backend `quark` is its successor.

The call is the one that AMD documents for CNNs on the NPU: power-of-two scales of least squared error, uint8 symmetric
activations, int8 weights, `enable_ipu_cnn` (`enable_dpu` in older versions). Methods other than min_mse give scales
that are no powers of two, for a CPU: then that switch is off, and activations are asymmetric unless the settings say
otherwise.

    vai_q_onnx.quantize_static(float.onnx, quantized.onnx, feeds, quant_format=QuantFormat.QDQ,
        calibrate_method=PowerOfTwoMethod.MinMSE, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        enable_ipu_cnn=True, extra_options={"ActivationSymmetric": True}, ...)

Its 16-bit types are VitisQuantType, whose operators run with a library of its own only; they are refused.
For the NPU, per_channel must be off and weights int8 (AMD's documentation of Ryzen AI, "Vitis AI Quantizer for ONNX").
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnx import ModelProto

from graphsurgery.errors import MissingTool
from graphsurgery.quantize import Calibration, Settings
from graphsurgery.quantize.vendor_process import FLOAT, QUANTIZED, Reader, quantize_apart, serve

__all__ = ["check", "quantize"]

_NAME = "backend 'vai_q_onnx'"
_SYMMETRIC = "ActivationSymmetric"
_TYPES = {"uint8": "QUInt8", "int8": "QInt8"}
_METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


def check(settings: Settings) -> None:
    """Raise ValueError for settings that the package, or the NPU's flow in it, can't do."""
    if settings.style is not None:
        raise ValueError(f"style: backend 'onnxruntime' has {settings.style}, 'vai_q_onnx' has not")
    if settings.config is not None:
        raise ValueError(f"config: {_NAME} has no named configurations; backend 'quark' has")
    for field in ("activations", "weights"):
        if getattr(settings, field) not in (None, *_TYPES):
            raise ValueError(f"{field}: {_NAME} has int8 and uint8; backend 'quark' has 16 bits")
    if not _for_npu(settings):
        return
    others = "of method min_mse, the default, has power-of-two scales for the NPU, which"
    if settings.per_channel:
        raise ValueError(f"per_channel: {_NAME} {others} are one per tensor; use method minmax")
    if settings.weights == "uint8":
        raise ValueError(f"weights: {_NAME} {others} takes int8; use method minmax")
    if settings.symmetric_activations is False or settings.symmetric_weights is False:
        raise ValueError(f"symmetric_*: {_NAME} {others} is symmetric; use method minmax")
    if settings.format == "qoperator":
        raise ValueError(f"format: {_NAME} {others} takes qdq; use method minmax")


def quantize(
    model: ModelProto, calibration: Calibration, settings: Settings, progress: Callable[[int, int], None]
) -> ModelProto:
    """Return the model as vai_q_onnx quantizes it, in a process of its own.

    Raises MissingTool where the package is not installed or can't be loaded, PassError where it fails.
    """
    check(settings)
    if importlib.util.find_spec("vai_q_onnx") is None:
        raise MissingTool(
            f"{_NAME} needs vai_q_onnx, which is not installed: it comes with AMD's Ryzen AI installer, not "
            "from PyPI; backend 'quark' is its successor (pip install 'graphsurgery[quark]')"
        )
    symmetric = bool(_options(settings).get(_SYMMETRIC))
    return quantize_apart(__name__, _NAME, model, calibration, settings, progress, symmetric=symmetric)


def _for_npu(settings: Settings) -> bool:
    return settings.method in (None, "min_mse")


def _options(settings: Settings) -> dict[str, bool]:
    options = {_SYMMETRIC: True} if _for_npu(settings) else {}
    if settings.symmetric_activations is not None:
        options[_SYMMETRIC] = settings.symmetric_activations
    if settings.symmetric_weights is not None:
        options["WeightSymmetric"] = settings.symmetric_weights
    return options


# --- in the other process ---------------------------------------------------------------------------------------


def _load() -> Any:
    import vai_q_onnx

    return vai_q_onnx


def _quantize(package: Any, request: dict[str, Any], work: Path, reader: Reader) -> None:
    settings = Settings(**request["settings"])
    npu = _for_npu(settings)
    method = (
        package.PowerOfTwoMethod.MinMSE if npu else getattr(package.CalibrationMethod, _METHODS[settings.method or ""])
    )
    package.quantize_static(
        str(work / FLOAT),
        str(work / QUANTIZED),
        reader,
        quant_format=package.QuantFormat.QOperator if settings.format == "qoperator" else package.QuantFormat.QDQ,
        calibrate_method=method,
        activation_type=getattr(package.QuantType, _TYPES[settings.activations or "uint8"]),
        weight_type=getattr(package.QuantType, _TYPES[settings.weights or "int8"]),
        per_channel=bool(settings.per_channel),
        nodes_to_exclude=request["excluded"],
        extra_options=_options(settings),
        **{_switch(package.quantize_static): npu},
    )


def _switch(function: Callable[..., object]) -> str:
    """Return what the argument for CNNs on the NPU is called in the installed version."""
    return "enable_ipu_cnn" if "enable_ipu_cnn" in inspect.signature(function).parameters else "enable_dpu"


if __name__ == "__main__":
    serve(_load, _quantize)
