"""ONNX Runtime's static quantizer: QDQ or QOperator, and QDQ as Qualcomm's QNN wants it (`config: qnn`).

What is not said is chosen for accuracy on an accelerator: QDQ, uint8 activations with a zero point, int8 weights per
channel (per tensor before opset 13, whose DequantizeLinear takes one scale only), minimum and maximum as ranges.

The ranges come from `graphsurgery.quantize.ranges`, not from ONNX Runtime's calibrators (1.31): those that count values
keep every tensor of every run until the last, and entropy, with as many bins as steps, has nothing to choose from.
Everything stays in memory; nothing is written to disk, to stdout or to a log.

Beyond what is excluded, these nodes stay float:
1. a Relu or Clip that the quantizer would take for part of the layer before it, where the range doesn't say the same:
   its input is an output of the model or read in a body, its range is empty, or its bounds are no constants around 0
2. a node with bodies, and one of a custom domain

A weight that a float node shares with a quantized one is copied, so that the float node reads it as it was.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from graphsurgery import graph as graphs
from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import bodies, walk_protos
from graphsurgery.quantize import Calibration, Quantize, Settings, is_excluded, name_nodes
from graphsurgery.quantize.ranges import Range, ranges

CONFIGS = ("qnn",)
FIRST_OPSET = 10  # with QuantizeLinear
PER_CHANNEL_OPSET = 13
WIDE = ("uint16", "int16")
MICROSOFT = "com.microsoft"


def check(settings: Settings) -> None:
    """Raise ValueError for settings that onnxruntime can't do."""
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
    settings = _decided(settings, Model(model).opset)
    ready = _with_types(model)
    method = settings.method
    assert method is not None
    assert method != "min_mse"
    found = ranges(ready, calibration, method, progress)

    def quantize_but(exclude: tuple[str, ...]) -> ModelProto:
        given = ModelProto()
        given.CopyFrom(ready)
        kept = _kept_float(given.graph, replace(settings, exclude=exclude), found)
        _require_ranges(given.graph, kept, found)
        _copy_shared_weights(given.graph, kept)
        with _silence():
            done = _quantized(given, settings, found, sorted(kept))
        return _with_frame_of(model, done)

    return quantize_but


def _decided(settings: Settings, opset: int) -> Settings:
    """Return the settings with every choice made. Raises InputError where the opset has no room for one."""
    if opset < FIRST_OPSET:
        raise InputError(f"opset {opset} has no QuantizeLinear; export with opset {PER_CHANNEL_OPSET} or later")
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


def _with_types(model: ModelProto) -> ModelProto:
    """Return a copy in which each node has a name, weights are initializers, and types and shapes are inferred."""
    copy = ModelProto()
    copy.CopyFrom(model)
    name_nodes(copy)
    _lift_weights(copy.graph)
    ready = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    half = next(
        (info for info in (*ready.graph.value_info, *ready.graph.input) if _element(info) == TensorProto.FLOAT16), None
    )
    if half is not None:
        raise InputError(
            f"tensor '{half.name}' is float16; quantize the float32 model, and cast what stays float later"
        )
    return ready


def _element(info: onnx.ValueInfoProto) -> int:
    return int(info.type.tensor_type.elem_type)


def _lift_weights(graph: GraphProto) -> None:
    """Turn float Constant nodes into initializers, which the quantizer takes for weights, but for outputs."""
    promised = {info.name for info in graph.output}
    kept = []
    for node in graph.node:
        value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), TensorProto())
        is_weight = node.op_type == "Constant" and value.data_type == TensorProto.FLOAT
        if is_weight and node.output[0] not in promised:
            graph.initializer.append(value)
            graph.initializer[-1].name = node.output[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _kept_float(graph: GraphProto, settings: Settings, found: Mapping[str, Range]) -> set[str]:
    """Return the names of the nodes that must not be quantized."""
    outputs = {info.name for info in graph.output}
    inner = {name for node in graph.node for body in bodies(node) for n in walk_protos(body) for name in n.input}
    values = {tensor.name: tensor for tensor in graph.initializer}
    kept = set()
    for node in graph.node:
        foreign = node.domain not in (*graphs.STANDARD_DOMAINS, MICROSOFT) or bool(bodies(node))
        clips = node.op_type in ("Relu", "Clip")
        if is_excluded(node, settings) or foreign or (clips and not _in_range(node, found, values, outputs | inner)):
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


def _require_ranges(graph: GraphProto, kept: set[str], found: Mapping[str, Range]) -> None:
    for node in graph.node:
        if node.name not in kept:
            for name in (*node.input, *node.output):
                if name in found and not all(map(math.isfinite, found[name])):
                    raise InputError(
                        f"tensor '{name}' becomes NaN or Inf on the samples, which have no range; add "
                        f"'{node.name}', the {node.op_type} that reads or writes it, to exclude"
                    )


def _copy_shared_weights(graph: GraphProto, kept: set[str]) -> None:
    read = {name for node in graph.node if node.name not in kept for name in node.input}
    shared = [tensor for tensor in graph.initializer if tensor.name in read]
    taken = {name for node in walk_protos(graph) for name in (*node.input, *node.output)}
    copies: dict[str, str] = {}
    for tensor in shared:
        if any(tensor.name in node.input for node in graph.node if node.name in kept):
            fresh = f"{tensor.name}_float"
            while fresh in taken:
                fresh += "_"
            copies[tensor.name] = fresh
            graph.initializer.append(tensor)
            graph.initializer[-1].name = fresh
    for node in graph.node:
        if node.name in kept:
            node.input[:] = [copies.get(name, name) for name in node.input]


def _quantized(model: ModelProto, settings: Settings, found: Mapping[str, Range], kept: Sequence[str]) -> ModelProto:
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
    spans = {
        name: TensorData(lowest=np.float32(span.low), highest=np.float32(span.high))
        for name, span in found.items()
        if all(map(math.isfinite, span))
    }
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
            nodes_to_exclude=list(kept),
        )
        ops, extra = sorted(preset.op_types_to_quantize), preset.extra_options
    add_infer_metadata(model)  # or it infers again, by way of a file
    common: tuple[Any, ...] = (
        weights,
        activations,
        TensorsData(CalibrationMethod.MinMax, spans),
        [],
        list(kept),
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


def _with_frame_of(model: ModelProto, quantized: ModelProto) -> ModelProto:
    """Return `quantized`, sorted, with everything of `model` that is no layer: interface, notes, known shapes."""
    for name in ("producer_name", "producer_version"):
        quantized.ClearField(name)
        if model.HasField(name):
            setattr(quantized, name, getattr(model, name))
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(model.metadata_props)
    written = {name for node in quantized.graph.node for name in node.output}
    for part in ("input", "output", "value_info"):
        quantized.graph.ClearField(part)
    quantized.graph.input.extend(model.graph.input)
    quantized.graph.output.extend(model.graph.output)
    quantized.graph.value_info.extend(info for info in model.graph.value_info if info.name in written)
    view = Model(quantized).graph()
    graphs.drop_unused(view)
    graphs.sort(view)
    return Model.of(view).proto


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what the quantizer logs and prints to itself; its first warning would set up logging for the process."""
    root, before = logging.getLogger(), logging.root.manager.disable
    handler = logging.NullHandler()
    root.addHandler(handler)
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)
