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
5. the elements are neither float16 nor float32, or nothing tells their type: ONNX Runtime has a Conv for no others
6. nothing tells the number of channels, which a depthwise Conv needs, or there are none
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.operands import CONV_FLOATS
from graphsurgery.operators.requirements import require_dtype
from graphsurgery.operators.windows import require_unit_pool, windowing
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class ReplaceUnitMaxpool(NodePass):
    """`by` is the operator that takes its place; `kernel`, 1 or 3, the window of that Conv."""

    name = "replace-unit-maxpool"
    effect = "exact"
    matches = ("MaxPool",)

    by: Literal["conv", "averagepool"] = "conv"
    kernel: Literal[1, 3] = 3

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        require_unit_pool(node, edit)
        data, strides = node.inputs[0], attribute(node, "strides", [1, 1])
        dtype = require_dtype(data, edit, CONV_FLOATS)
        if self.by == "averagepool":
            return edit.replace(node, "AveragePool", [data], windowing([1, 1], strides))
        channels = (edit.shape(data) or [None] * 4)[1]
        if not isinstance(channels, int) or channels == 0:
            raise Refuse("its number of channels is not known, or 0; `by: averagepool` does not need it")
        taps = np.zeros((channels, 1, self.kernel, self.kernel), dtype)
        taps[:, :, self.kernel // 2, self.kernel // 2] = 1
        weight = edit.constant(f"{node.outputs[0].name}_centre_tap", taps)
        attrs = windowing([self.kernel] * 2, strides, [self.kernel // 2] * 4, group=channels)
        edit.replace(node, "Conv", [data, weight], attrs)
