"""What a quantized model costs where it runs on integers: multiply-adds weighed by the bits of both factors.

    bit operations = sum over layers of multiply-adds x bits of the weights x bits of the activations

as mixed-precision quantization counts them (Baskin et al., UNIQ, 2018: "BOPs"). A layer that stays float counts with
its own 32 or 16 bits, so that a model in 8 bits costs 1/16 of the float one, one with activations of 16 bits 1/8. An
accelerator's time is not quite that, but it goes by it in order, which the size of the file does not: that knows
nothing of activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.graph import STANDARD_DOMAINS, producer
from graphsurgery.graph.model import Model
from graphsurgery.graph.multiply_adds import multiply_adds_by_node

_FLOAT = 32
# what only moves values, between a DequantizeLinear and the layer that reads it
_MOVES = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
# the input that tells the type of the activations and of the weights: a zero point, or the values themselves
_INTEGER = {
    "QLinearConv": (2, 5),
    "QLinearMatMul": (2, 5),
    "QGemm": (2, 5),
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
}


@dataclass(frozen=True)
class Work:
    """Multiply-adds of all layers and of those in integers, and bit operations; of static shapes alone."""

    multiply_adds: int = 0
    in_integers: int = 0
    bit_operations: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.multiply_adds + other.multiply_adds,
            self.in_integers + other.in_integers,
            self.bit_operations + other.bit_operations,
        )

    @property
    def share(self) -> float:
        """Bit operations as a share of those in float of 32 bits; 0 where nothing is multiplied."""
        return self.bit_operations / (self.multiply_adds * _FLOAT * _FLOAT) if self.multiply_adds else 0.0


def work(model: Model) -> Work:
    """Return what the layers of a model cost, float or quantized. Raises ModelError where shape inference fails."""
    found = Work()
    for node, count in multiply_adds_by_node(model):
        if count:
            activations, weights = _bits(node)
            integer = max(activations, weights) <= 16 and _is_integer(node)
            found += Work(count, count if integer else 0, count * activations * weights)
    return found


def _bits(node: gs.Node) -> tuple[int, int]:
    places = _INTEGER.get(node.op, (0, 1))
    first, second = (_bits_of(node.inputs[place]) if place < len(node.inputs) else _FLOAT for place in places)
    return first, second


def _is_integer(node: gs.Node) -> bool:
    return node.op in _INTEGER or all(_dequantized(each) is not None for each in node.inputs[:2])


def _bits_of(tensor: gs.Tensor) -> int:
    source = _dequantized(tensor)
    if source is None:
        return _of_type(tensor)
    stored = source.inputs[0]
    if stored.dtype is None and len(source.inputs) > 2:
        stored = source.inputs[2]
    return 8 if stored.dtype is None else _of_type(stored)


def _dequantized(tensor: gs.Tensor) -> gs.Node | None:
    """Return the DequantizeLinear that a layer reads a tensor from, None where there is none."""
    source = producer(tensor)
    while source is not None and source.op in _MOVES and source.domain in STANDARD_DOMAINS:
        source = producer(source.inputs[0])
    return source if source is not None and source.op == "DequantizeLinear" else None


def _of_type(tensor: gs.Tensor) -> int:
    kind = tensor.dtype
    if kind is None:
        return _FLOAT
    if isinstance(kind, int):  # graphsurgeon keeps a type that NumPy doesn't know as ONNX numbers it
        name = onnx.TensorProto.DataType.Name(kind)
        return 4 if name in ("INT4", "UINT4") else 16 if name == "BFLOAT16" else 8
    return 8 * int(np.dtype(kind).itemsize)
