"""A one-node model as quantizers write it: QuantizeLinear and DequantizeLinear around all that is float.

Activations have 8 or 16 bits without a sign and one scale, weights int8, a bias int32 with the scales of both. What
moves values without changing them keeps the scale of its input, as compilers ask and quantizers write.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphsurgery.probing.one_node import NODE, OneNode

Array = npt.NDArray[Any]

ACTIVATIONS = {"int8": "uint8", "a16w8": "uint16"}
# They give out values that they were given
_MOVING = frozenset(
    [
        "MaxPool",
        "Resize",
        "Upsample",
        "Slice",
        "Split",
        "Concat",
        "Transpose",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Gather",
        "GatherND",
        "Expand",
        "Tile",
        "GatherElements",
        "DepthToSpace",
        "SpaceToDepth",
        "Pad",
        "TopK",
        "Max",
        "Min",
        "ScatterND",
        "ScatterElements",
        "Where",
        "Relu",
        "Clip",
        "Identity",
        "GlobalMaxPool",
        "ReduceMax",
        "ReduceMin",
        "MaxRoiPool",
    ]
)
# Their second operand is a weight, the third a bias
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_OPSET = 10  # before, there is no QuantizeLinear
_INTEGER_KERNEL_OPSET = 21  # before, 16 bits are of Microsoft's operators alone


def is_quantizable(node: OneNode) -> bool:
    """Whether it reads or writes anything in float while it runs."""
    read = any(each.given and each.value is not None and each.value.dtype == np.float32 for each in node.operands)
    return read and node.opset >= _OPSET


def quantized(node: OneNode, precision: str) -> ModelProto:
    """Return the model of `node` with each float tensor in the whole numbers of a precision. Raises NotBuilt."""
    return _Writer(node, np.dtype(ACTIVATIONS[precision])).model()


class _Writer:
    """Writes one quantized model."""

    def __init__(self, node: OneNode, kind: np.dtype[Any]) -> None:
        self._node, self._kind = node, kind
        self._own = kind == np.uint16 and node.opset < _INTEGER_KERNEL_OPSET
        self._before: list[Any] = []
        self._behind: list[Any] = []
        self._stored: list[TensorProto] = []
        self._spans: dict[str, tuple[float, int]] = {}

    def model(self) -> ModelProto:
        """Return the quantized model, its inputs and outputs float."""
        given = self._node.proto
        proto = ModelProto()
        proto.CopyFrom(given)
        core = proto.graph.node[0]
        values = self._values()
        kept = {tensor.name: tensor for tensor in proto.graph.initializer}
        joined = [value for value in values.values() if value.dtype == np.float32] if core.op_type in _MOVING else []
        scale = _scale(np.concatenate([value.ravel() for value in joined]), self._kind) if joined else None
        for at, name in enumerate(core.input):
            value = values.get(name)
            if value is None or value.dtype != np.float32 or not self._is_data(at, name in kept):
                continue
            weight = name in kept and core.op_type in _WEIGHTED and at > 0
            core.input[at] = self._weight(name, value, at) if weight else self._read(name, value, name in kept, scale)
            kept.pop(name, None)
        for at, (name, value) in enumerate(self._node.results.items()):
            if value.dtype == np.float32 and value.size:
                core.output[at] = self._written(name, value, scale)
        del proto.graph.initializer[:]
        proto.graph.initializer.extend([*kept.values(), *self._stored])
        nodes = [*self._before, core, *self._behind]
        copies = [type(each).FromString(each.SerializeToString()) for each in nodes]
        del proto.graph.node[:]
        proto.graph.node.extend(copies)
        if self._own:
            proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        return proto

    def _values(self) -> dict[str, Array]:
        operands = self._node.operands
        return {f"x{at}": each.value for at, each in enumerate(operands) if each.value is not None}

    def _is_data(self, at: int, is_stored: bool) -> bool:
        """Whether an input is something that is computed with: factors, bounds and thresholds stay as they are."""
        op = self._node.op
        if not is_stored:
            return op != "NonMaxSuppression"
        return op in (*_WEIGHTED, "PRelu", "InstanceNormalization", "LayerNormalization", "BatchNormalization") or (
            at == 1 and op in ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min")
        )

    def _read(self, name: str, value: Array, is_stored: bool, scale: tuple[float, int] | None) -> str:
        found = scale or _scale(value, self._kind)
        self._spans[name] = found
        if is_stored:
            whole = _rounded(value, found, self._kind)
            self._stored.append(numpy_helper.from_array(whole, f"{name}_q"))
        else:
            self._before.append(self._convert("QuantizeLinear", name, f"{name}_q", found))
        self._before.append(self._convert("DequantizeLinear", f"{name}_q", f"{name}_d", found))
        return f"{name}_d"

    def _weight(self, name: str, value: Array, at: int) -> str:
        if at == 1:
            found = (float(np.abs(value).max()) / 127 or 1.0, 0)
            whole = np.clip(np.rint(value / found[0]), -127, 127).astype(np.int8)
        else:
            found = (self._spans["x0"][0] * self._spans["x1"][0], 0)
            whole = np.rint(value / found[0]).astype(np.int32)
        self._spans[name] = found
        self._stored.append(numpy_helper.from_array(whole, f"{name}_q"))
        self._before.append(self._convert("DequantizeLinear", f"{name}_q", f"{name}_d", found, whole.dtype))
        return f"{name}_d"

    def _written(self, name: str, value: Array, scale: tuple[float, int] | None) -> str:
        found = scale or _scale(value, self._kind)
        self._behind.append(self._convert("QuantizeLinear", f"{name}_f", f"{name}_q", found))
        self._behind.append(self._convert("DequantizeLinear", f"{name}_q", name, found))
        return f"{name}_f"

    def _convert(
        self, op: str, read: str, written: str, found: tuple[float, int], kind: np.dtype[Any] | None = None
    ) -> Any:
        kind = self._kind if kind is None else kind
        parameters = (np.asarray(found[0], np.float32), np.asarray(found[1], kind))
        names = [f"{written}_scale", f"{written}_zero"]
        self._stored += [numpy_helper.from_array(value, name) for value, name in zip(parameters, names, strict=True)]
        domain = "com.microsoft" if self._own else ""
        return helper.make_node(op, [read, *names], [written], name=f"{op}_{written}", domain=domain)


def _scale(value: Array, kind: np.dtype[Any]) -> tuple[float, int]:
    """Return scale and zero point of values whose range is widened to hold 0."""
    finite = value[np.isfinite(value)]
    low, high = min(float(finite.min(initial=0)), 0.0), max(float(finite.max(initial=0)), 0.0)
    steps = np.iinfo(kind).max
    scale = (high - low) / steps or 1.0
    return float(np.float32(scale)), round(-low / scale)


def _rounded(value: Array, found: tuple[float, int], kind: np.dtype[Any]) -> Array:
    limits = np.iinfo(kind)
    whole: Array = np.clip(np.rint(value / found[0]) + found[1], limits.min, limits.max).astype(kind)
    return whole


def number_of_node(proto: ModelProto) -> int:
    """Return the place of the node that is probed among all of its model."""
    return next(at for at, node in enumerate(proto.graph.node) if node.name == NODE)
