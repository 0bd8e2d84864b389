"""Replace a 1x1 MaxPool, which many accelerators refuse, by an operator that picks the same elements.

    MaxPool(kernel 1x1, strides s)  ->  Conv(kernel 3x3, group = channels, centre tap 1, pads 1, strides s)
    by: conv, kernel: 1             ->  Conv(kernel 1x1, group = channels, all ones, strides s)
    by: averagepool                 ->  AveragePool(kernel 1x1, strides s)

A MaxPool of one element is subsampling, and so is each of these: equal to the last bit. torchvision's FPN ends in
one, with stride 2. The default is the depthwise 3x3 Conv, because it is the layer of MobileNet that every NPU
compiler takes with stride 2; a 1x1 depthwise Conv and a 1x1 window are corner cases for the same compilers. Every
attribute is written out: VitisAI aborts on a Conv that leaves one at its default.

One limit: 0 x Inf is NaN, so with `kernel: 3` an Inf or NaN spoils its eight neighbours too (and -0 may become +0).

It does not fire when
1. the kernel is wider than 1x1
2. the window is not two-dimensional
3. the MaxPool pads, dilates or rounds up (auto_pad, pads, dilations, ceil_mode)
4. the indices of the maxima are read too
5. the elements are no floating-point numbers, or nothing tells their type
6. nothing tells the number of channels, which a depthwise Conv needs: neither the shape of the input nor the weight
   of a Conv, ConvTranspose or BatchNormalization before it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, is_op, producer
from graphsurgery.passes._unit_pool import why_no_unit_pool
from graphsurgery.rewrite import Editor, NodePass, Refuse

_FLOATS = ("float32", "float16", "float64")
# Operators with one data input that keep its type and its number of channels.
_KEEPS_CHANNELS = (
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Clip", "Identity"),
    *("MaxPool", "AveragePool", "BatchNormalization"),
)


@dataclass(frozen=True)
class ReplaceUnitMaxpool(NodePass):
    """`by` is the operator that takes its place; `kernel`, 1 or 3, the window of that Conv."""

    name = "replace-unit-maxpool"
    effect = "exact"
    matches = ("MaxPool",)

    by: Literal["conv", "averagepool"] = "conv"
    kernel: Literal[1, 3] = 3

    def __post_init__(self) -> None:
        if self.by not in ("conv", "averagepool"):
            raise ValueError(f"by must be conv or averagepool, not {self.by}")
        if self.kernel not in (1, 3):
            raise ValueError(f"kernel must be 1 or 3, not {self.kernel}")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        reason = why_no_unit_pool(node)
        if reason is not None:
            raise Refuse(reason)
        dtype, channels = _elements(node)
        if dtype is None or dtype.name not in _FLOATS:
            kind = "of unknown type" if dtype is None else dtype.name
            raise Refuse(f"its elements are {kind}, not {', '.join(_FLOATS)}")
        strides = list(attribute(node, "strides", [1, 1]))
        if self.by == "averagepool":
            window_only = {"kernel_shape": [1, 1], "pads": [0] * 4, "strides": strides}
            return edit.replace(node, "AveragePool", list(node.inputs), window_only)
        if channels is None:
            raise Refuse("its number of channels is not known; `by: averagepool` does not need it")
        taps = np.zeros((channels, 1, self.kernel, self.kernel), dtype)
        taps[:, :, self.kernel // 2, self.kernel // 2] = 1
        weight = edit.constant(f"{node.outputs[0].name}_centre_tap", taps)
        attrs = {
            "dilations": [1, 1],
            "group": channels,
            "kernel_shape": [self.kernel] * 2,
            "pads": [self.kernel // 2] * 4,
            "strides": strides,
        }
        edit.replace(node, "Conv", [node.inputs[0], weight], attrs)


def _elements(pool: gs.Node) -> tuple[np.dtype[Any] | None, int | None]:
    """Return the type and the number of channels of what `pool` reads, as far as shapes and weights tell."""
    dtype, channels = pool.outputs[0].dtype, None
    for tensor in _path_up(pool):
        dtype = dtype or tensor.dtype
        channels = channels or _size(tensor.shape, 1)
        node = producer(tensor)
        if node is not None and is_op(node, "Conv", "ConvTranspose"):
            dtype = dtype or node.inputs[1].dtype
            shape = node.inputs[1].shape
            grouped = (_size(shape, 1) or 0) * attribute(node, "group", 1)
            channels = channels or (grouped if is_op(node, "ConvTranspose") else _size(shape, 0))
        elif node is not None and is_op(node, "BatchNormalization"):
            channels = channels or _size(node.inputs[1].shape, 0)
    return None if dtype is None else np.dtype(dtype), channels or None


def _path_up(node: gs.Node) -> Iterator[gs.Tensor]:
    """Yield what `node` reads and what that was made from, while its type and number of channels stay the same."""
    current: gs.Node | None = node
    while current is not None and is_op(current, *_KEEPS_CHANNELS):
        tensor = current.inputs[0]
        yield tensor
        current = producer(tensor)


def _size(shape: Sequence[Any] | None, axis: int) -> int | None:
    known = shape is not None and len(shape) > axis and isinstance(shape[axis], int | np.integer) and shape[axis] > 0
    return int(shape[axis]) if known and shape is not None else None
