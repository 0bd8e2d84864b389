"""AMD's quantizer amd-quark (0.13), for Ryzen AI: `config: XINT8` rounds with power-of-two scales, as its NPU does.

    XINT8                int8, scales that are powers of two, least squared error; the NPU's flow for CNNs; default
    A8W8, A16W8          int8 or int16 activations, int8 weights, any scale, percentile
    ..._ADAROUND, _ADAQUANT   each of these with the rounding of the weights trained afterwards; minutes
    S8S8_AAWS, U8S8_AAWS, U8U8_AAWA, S16S8_ASWS, U16S8_AAWS   the same kind, named by Signed or Unsigned, bits, and
                         Asymmetric or Symmetric Activations and Weights

All of them run in any ONNX Runtime: 8 bits are QuantizeLinear of ONNX, 16 bits that of the domain com.microsoft. The
other names that Quark has (BF16, BFP16, FP16, MX...) write operators of com.amd.quark, which need Quark's own library
in every session, and are refused here.

The named configurations are those of Quark's QConfig. Its older interface, get_default_config, adds cross-layer
equalization, which scales a weight once for each node that reads it: an RPN head, applied to five feature maps,
computes something else afterwards (-1 dB where the same configuration without it gives 31 dB). Quark's simplifier is
onnxslim, which has given wrong masks without a word, and is switched off: the pass `simplify` does that work.

It runs in this environment where it is installed (`pip install 'graphsurgery[quark]'`), else in that of the toolchain:
`python -m graphsurgery toolchain install quark`. Importing it compiles a library the first time (20 s), for which it
wants a C++ compiler.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from onnx import ModelProto

from graphsurgery.errors import PassError
from graphsurgery.quantize import Calibration, Settings
from graphsurgery.quantize.vendor_process import FLOAT, QUANTIZED, Reader, quantize_apart, serve
from graphsurgery.toolchains import require

__all__ = ["CONFIGS", "check", "quantize"]

_NAME = "backend 'quark'"
_DEFAULT = "XINT8"
_OWN_OPERATORS = "com.amd.quark"


class _Types(NamedTuple):
    """What the name of an older configuration says: types, whether they are symmetric, and a percentile."""

    activations: str
    symmetric_activations: bool
    weights: str
    symmetric_weights: bool
    percentile: float = 99.999


_OLDER = {
    "S8S8_AAWS": _Types("int8", False, "int8", True, 99.9999),
    "U8S8_AAWS": _Types("uint8", False, "int8", True),
    "U8U8_AAWA": _Types("uint8", False, "uint8", False),
    "S16S8_ASWS": _Types("int16", True, "int8", True),
    "U16S8_AAWS": _Types("uint16", False, "int8", True),
}
CONFIGS = (
    *(base + algorithm for base in ("XINT8", "A8W8", "A16W8") for algorithm in ("", "_ADAROUND", "_ADAQUANT")),
    *_OLDER,
)
_SPECS = {"int8": "Int8Spec", "uint8": "UInt8Spec", "int16": "Int16Spec", "uint16": "UInt16Spec"}
_METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile", "min_mse": "MinMSE"}


def check(settings: Settings) -> None:
    """Raise ValueError for settings that Quark, or its configuration of that name, can't do."""
    if settings.style is not None:
        raise ValueError(f"style: backend 'onnxruntime' has {settings.style}, 'quark' has not")
    config = settings.config or _DEFAULT
    if config not in CONFIGS:
        raise ValueError(f"config must be one of {', '.join(CONFIGS)}, not {config!r}")
    if settings.format == "qoperator":
        raise ValueError("format: backend 'quark' writes qdq only; backend 'onnxruntime' writes qoperator")
    if not config.startswith("XINT8"):
        if settings.method == "min_mse":
            raise ValueError(f"method: min_mse looks for power-of-two scales, which config XINT8 has and {config} not")
        return
    if settings.method in ("entropy", "percentile"):
        raise ValueError(f"method: config {config} has power-of-two scales, from min_mse or minmax; A8W8 has others")
    if settings.per_channel:
        raise ValueError(f"per_channel: config {config} has one scale per tensor; A8W8 can have one per channel")
    if settings.activations in ("int16", "uint16"):
        raise ValueError(f"activations: config {config} has int8 or uint8; A16W8 has 16 bits")
    if settings.weights not in (None, "int8"):
        raise ValueError(f"weights: config {config} has int8; A8W8 can have others")
    if settings.symmetric_activations is False or settings.symmetric_weights is False:
        raise ValueError(f"symmetric_*: config {config} is symmetric; A8W8 can do without")


def quantize(
    model: ModelProto, calibration: Calibration, settings: Settings, progress: Callable[[int, int], None]
) -> ModelProto:
    """Return the model as Quark quantizes it, in a process of its own.

    Raises MissingTool where amd-quark is not installed or can't compile its library, PassError where it fails; an
    error that Quark only logs counts, because it then goes on with another method than the one asked for.
    """
    check(settings)
    python = require("quark", _NAME) if importlib.util.find_spec("quark") is None else None
    symmetric = _is_symmetric(settings)
    quantized = quantize_apart(
        __name__, _NAME, model, calibration, settings, progress, symmetric=symmetric, python=python
    )
    if any(node.domain == _OWN_OPERATORS for node in quantized.graph.node):
        raise PassError(f"{_NAME}: these settings need operators of {_OWN_OPERATORS}, which ONNX Runtime has not")
    return quantized


def _is_symmetric(settings: Settings) -> bool:
    if settings.symmetric_activations is not None:
        return settings.symmetric_activations
    return settings.config not in _OLDER or _OLDER[settings.config].symmetric_activations


# --- in the other process ---------------------------------------------------------------------------------------


def _load() -> Any:
    os.environ.pop("QUARK_LOG_LEVEL", None)  # errors must be logged to be seen
    try:
        import quark.onnx
    except RuntimeError as error:  # it compiles its library as soon as it is imported
        raise RuntimeError(f"{error} It needs a C++ compiler, ninja, and a home folder to write to.") from error
    return quark.onnx


def _quantize(quark: Any, request: dict[str, Any], work: Path, reader: Reader) -> None:
    config = _configure(quark, Settings(**request["settings"]), request["excluded"])
    quark.ModelQuantizer(config).quantize_model(
        model_input=str(work / FLOAT), model_output=str(work / QUANTIZED), calibration_data_reader=reader
    )


def _configure(quark: Any, settings: Settings, excluded: list[str]) -> Any:
    """Return the named QConfig with the settings put into it."""
    name = settings.config or _DEFAULT
    if name in _OLDER:
        kind = _OLDER[name]
        activation = getattr(quark, _SPECS[kind.activations])(symmetric=kind.symmetric_activations)
        weight = getattr(quark, _SPECS[kind.weights])(symmetric=kind.symmetric_weights)
        algorithms, options = [], {"ForceQuantizeNoInputCheck": True, "Percentile": kind.percentile}
    else:
        config = copy.deepcopy(getattr(quark, f"{name}_QCONFIG"))
        layer = config.global_config
        activation, weight = layer.input_tensors or layer.activation, layer.weight  # 0.13 renames the second
        algorithms, options = config.algo_config, config.extra_options.get("extra_options", config.extra_options)
    activation = _with_type(quark, activation, settings.activations, settings.symmetric_activations)
    weight = _with_type(quark, weight, settings.weights, settings.symmetric_weights)
    if settings.method is not None:
        activation.calibration_method = getattr(quark.CalibMethod, _METHODS[settings.method])
        if weight.scale_type == quark.ScaleType.PowerOf2:  # then both have the same
            weight.calibration_method = activation.calibration_method
    if settings.per_channel is not None:
        grain = quark.QuantGranularity
        weight.quant_granularity = grain.Channel if settings.per_channel else grain.Tensor
    return quark.QConfig(
        global_config=quark.QLayerConfig(input_tensors=activation, weight=weight),
        exclude=excluded,
        algo_config=algorithms,
        extra_options={**options, "SimplifyModel": False, "PrintSummary": False},
    )


def _with_type(quark: Any, spec: Any, kind: str | None, symmetric: bool | None) -> Any:
    if kind is not None:
        spec = getattr(quark, _SPECS[kind])(
            symmetric=spec.symmetric,
            scale_type=spec.scale_type,
            calibration_method=spec.calibration_method,
            quant_granularity=spec.quant_granularity,
        )
    if symmetric is not None:
        spec.symmetric = symmetric
    return spec


if __name__ == "__main__":
    serve(_load, _quantize)
