"""ONNX Runtime's static quantizer: QDQ or QOperator, and QDQ as Qualcomm's QNN wants it (`config: qnn`).

`style: systolic`, QOperator as ONNX Runtime on RISC-V reads it, is written without that quantizer (`systolic`).

What is not said is chosen for accuracy on an accelerator: QDQ, uint8 activations with a zero point, int8 weights per
channel (per tensor before opset 13, whose DequantizeLinear takes one scale only), minimum and maximum as ranges.

The ranges come from `graphsurgery.quantize.ranges`, not from ONNX Runtime's calibrators (1.31): those that count values
keep every tensor of every run until the last, and entropy, with as many bins as steps, has nothing to choose from.
The quantizer runs in a process of its own, with a time limit, on what `normalise` makes of the model.

Beyond what is excluded, these nodes stay float:
1. a Relu or Clip that the quantizer would take for part of the layer before it, where the range doesn't say the same:
   its input is an output of the model or read in a body, its range is empty, or its bounds are no constants around 0
2. a node with bodies, and one of a custom domain
3. in QOperator, a Conv or Gemm whose bias is computed or has rows, and a Gemm whose alpha went into no constant: there
   is no operator for them
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from graphsurgery import graph as graphs
from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import bodies, walk_protos
from graphsurgery.processes.worker import Running, Worker, serve
from graphsurgery.quantize import Calibration, Quantize, Settings, is_excluded, systolic
from graphsurgery.quantize.failures import GRACE, attempt, failure, write
from graphsurgery.quantize.normalise import normalise
from graphsurgery.quantize.ranges import Range, no_range, ranges
from graphsurgery.quantize.restore import Normalised

_NAME = "backend 'onnxruntime'"
CONFIGS = ("qnn",)
PER_CHANNEL_OPSET = 13
WIDE = ("uint16", "int16")
MICROSOFT = "com.microsoft"
SECONDS = 600.0


def check(settings: Settings) -> None:
    """Raise ValueError for settings that onnxruntime can't do."""
    if settings.style == "systolic":
        systolic.check(settings)
    if settings.config is not None and settings.config not in CONFIGS:
        raise ValueError(f"config: backend 'onnxruntime' has {', '.join(CONFIGS)}, not {settings.config!r}")
    if settings.method == "min_mse":
        raise ValueError("method: backend 'onnxruntime' has minmax, entropy and percentile; 'quark' has min_mse")
    if settings.weights in WIDE:
        raise ValueError(f"weights: backend 'onnxruntime' has int8 and uint8, not {settings.weights}")
    if settings.activations == "int8" and settings.weights == "uint8":
        raise ValueError("weights: backend 'onnxruntime' has int8 only where activations are int8")
    if settings.activations in WIDE and settings.method == "entropy":
        raise ValueError("method: entropy counts the steps of 8 bits; take minmax where activations have 16")
    if settings.per_channel and settings.symmetric_weights is False:
        raise ValueError("symmetric_weights: backend 'onnxruntime' has true only where per_channel is true")
    if settings.format == "qoperator":
        if settings.config == "qnn":
            raise ValueError("format: config qnn is qdq")
        if settings.activations in WIDE:
            raise ValueError(f"format: only qdq has {settings.activations} activations")
        if settings.per_channel and settings.weights == "uint8":
            raise ValueError("weights: format qoperator has int8 only where per_channel is true")


def quantize(
    model: ModelProto, calibration: Calibration, settings: Settings, progress: Callable[[int, int], None]
) -> ModelProto:
    """Return the quantized model; its inputs and outputs stay float, with the names that they have.

    Raises InputError for an opset too old, for float16, and for a tensor that becomes NaN or Inf in a node that is not
    excluded; and what `ranges` raises.
    """
    return prepare(model, calibration, settings, progress)(settings.exclude)


def prepare(
    model: ModelProto, calibration: Calibration, settings: Settings, progress: Callable[[int, int], None]
) -> Quantize:
    """Calibrate `model` and return what quantizes it but for the nodes whose names match the given patterns."""
    check(settings)
    if settings.style == "systolic":
        return systolic.prepare(model, calibration, settings, progress)
    settings = _decided(settings, Model(model).opset)
    _running.start()  # it gets ready while the ranges are found
    given = normalise(model, per_channel=bool(settings.per_channel))
    method = settings.method
    assert method is not None
    assert method != "min_mse"
    found = ranges(given.model, given.feeds(calibration), method, progress)

    def quantize_but(exclude: tuple[str, ...]) -> ModelProto:
        kept = {*given.waiting, *_kept_float(given.model.graph, replace(settings, exclude=exclude), found)}
        _require_ranges(given, kept, found)
        return given.restore(_quantized(given, settings, found, sorted(kept)), _NAME)

    return quantize_but


def _decided(settings: Settings, opset: int) -> Settings:
    """Return the settings with every choice made. Raises InputError where the opset has no room for one."""
    form = settings.format or "qdq"
    room = opset >= PER_CHANNEL_OPSET or form == "qoperator"
    if settings.per_channel and not room:
        raise InputError(
            f"opset {opset} has no DequantizeLinear per channel; export with opset {PER_CHANNEL_OPSET} or later, "
            "or set per_channel to false"
        )
    weights = settings.weights or "int8"
    per_channel = settings.per_channel
    if per_channel is None:
        per_channel = room and settings.symmetric_weights is not False and weights == "int8"
    return replace(
        settings,
        format=form,
        method=settings.method or "minmax",
        activations=settings.activations or "uint8",
        weights=weights,
        per_channel=per_channel,
        symmetric_activations=bool(settings.symmetric_activations),
        symmetric_weights=weights == "int8" if settings.symmetric_weights is None else settings.symmetric_weights,
    )


def _kept_float(graph: GraphProto, settings: Settings, found: Mapping[str, Range]) -> set[str]:
    """Return the names of the nodes that must not be quantized."""
    outputs = {info.name for info in graph.output}
    inner = {name for node in graph.node for body in bodies(node) for n in walk_protos(body) for name in n.input}
    values = {tensor.name: tensor for tensor in graph.initializer}
    kept = set()
    for node in graph.node:
        foreign = node.domain not in (*graphs.STANDARD_DOMAINS, MICROSOFT) or bool(bodies(node))
        clips = node.op_type in ("Relu", "Clip") and not _in_range(node, found, values, outputs | inner)
        integer = settings.format == "qoperator" and not _has_integer_operator(node, values)
        if is_excluded(node, settings) or foreign or clips or integer:
            kept.add(node.name)
    return kept


def _in_range(node: NodeProto, found: Mapping[str, Range], values: Mapping[str, TensorProto], needed: set[str]) -> bool:
    """Whether clipping to the range of a Relu's or Clip's output is all that the node does."""
    span = found.get(node.output[0])
    if span is None or not span.low < span.high or node.input[0] in needed:
        return False
    if node.op_type == "Relu":
        return True
    limits: dict[str, float] = {
        attribute.name: attribute.f for attribute in node.attribute
    }  # attributes before opset 11, inputs since
    for bound, name in zip(("min", "max"), node.input[1:], strict=False):
        if name and name not in values:
            return False
        if name:
            limits[bound] = float(onnx.numpy_helper.to_array(values[name]))
    return bool(limits.get("min", 0.0) <= 0.0 <= limits.get("max", 0.0))


def _has_integer_operator(node: NodeProto, values: Mapping[str, TensorProto]) -> bool:
    """Whether QLinearConv or QGemm can do what the node does; any other operator has its own or stays float."""
    if node.op_type not in ("Conv", "Gemm"):
        return True
    scaled = any(each.name == "alpha" and each.f != 1 for each in node.attribute)
    return not scaled and (len(node.input) < 3 or node.input[2] in values)


def _require_ranges(given: Normalised, kept: set[str], found: Mapping[str, Range]) -> None:
    for node in given.model.graph.node:
        if node.name not in kept:
            for name in (*node.input, *node.output):
                if name in found and not all(map(math.isfinite, found[name])):
                    raise no_range(given.text(name), node)


def _quantized(given: Normalised, settings: Settings, found: Mapping[str, Range], kept: list[str]) -> ModelProto:
    """Let the other process quantize the model. Raises PassError, naming the node, where it fails or takes too long."""
    with _running.use() as worker:
        file = worker.folder / "model.onnx"
        write(given.model, file, _NAME)
        seconds = settings.seconds or SECONDS
        request = {
            "file": str(file),
            "settings": asdict(settings),
            "spans": {name: list(span) for name, span in found.items() if all(map(math.isfinite, span))},
            "kept": kept,
            "limit": seconds,
        }
        reply = worker.ask(request, seconds + GRACE)
        if "failed" in reply:
            raise failure(_NAME, reply, given)
        return onnx.load(file)


_running = Running(lambda: Worker(__name__, _NAME))


# --- in the other process ---------------------------------------------------------------------------------------


def _load() -> None:
    # the preset of Qualcomm imports torch where it is, for nothing that is used here: 10 s
    sys.modules["torch"] = None  # type: ignore[assignment]  # it counts as not installed
    import onnxruntime.quantization  # noqa: F401


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    def quantize_file() -> None:
        model = onnx.load(request["file"])
        onnx.save(_run(model, Settings(**request["settings"]), request["spans"], request["kept"]), request["file"])

    return attempt(quantize_file, request["limit"])


def _run(model: ModelProto, settings: Settings, found: dict[str, list[float]], kept: list[str]) -> ModelProto:
    """Run ONNX Runtime's quantizer, which works on `model` in place."""
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantizationMode
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.quant_utils import QuantType, add_infer_metadata
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    kinds = {
        "uint8": QuantType.QUInt8,
        "int8": QuantType.QInt8,
        "uint16": QuantType.QUInt16,
        "int16": QuantType.QInt16,
    }
    activations, weights = kinds[settings.activations or ""], kinds[settings.weights or ""]
    spans = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in found.items()}
    ops = sorted({*QDQRegistry, *QLinearOpsRegistry})
    extra: dict[str, Any] = {
        "ActivationSymmetric": settings.symmetric_activations,
        "WeightSymmetric": settings.symmetric_weights,
    }
    if settings.config == "qnn":
        from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

        preset = get_qnn_qdq_config(
            model,
            None,
            activation_type=activations,
            weight_type=weights,
            per_channel=settings.per_channel,
            activation_symmetric=settings.symmetric_activations,
            weight_symmetric=settings.symmetric_weights,
            nodes_to_exclude=kept,
        )
        ops, extra = sorted(preset.op_types_to_quantize), preset.extra_options
    add_infer_metadata(model)  # or it infers again, by way of a file
    common: tuple[Any, ...] = (
        weights,
        activations,
        TensorsData(CalibrationMethod.MinMax, spans),
        [],
        kept,
        ops,
        extra,
    )
    if settings.format == "qoperator":
        mode = QuantizationMode.QLinearOps
        quantizer = ONNXQuantizer(model, settings.per_channel, False, mode, True, *common)
    else:
        quantizer = QDQQuantizer(model, settings.per_channel, False, *common)
    quantizer.quantize_model()
    result: ModelProto = quantizer.model.model
    return result


if __name__ == "__main__":
    serve(_load, _answer)
