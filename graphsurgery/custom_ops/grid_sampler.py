"""grid_sampler of mmcv and mmdeploy, PyTorch's grid_sample: the values of an image at points.

    input [N, C, H, W], grid [N, h, w, 2] of (x, y), -1 to 1 across the image   ->   output [N, C, h, w]

It is GridSample from operator set 16 on. Before that its corners are gathered and weighed, which takes several times
the memory; the pass raise-opset is the cure.

Source: mmcv 1.6.0, mmcv/onnx/symbolic.py and ops/csrc/onnxruntime/cpu/gridSample.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphsurgery.custom_ops._sampling import MODES, PADDING, sampled
from graphsurgery.graph.expansion import CustomOperator, Tensor, Writer

_GRID_SAMPLE, _RENAMED = 16, 20


@dataclass(frozen=True)
class GridSampler(CustomOperator):
    """`interpolation_mode` is 0 bilinear, 1 nearest or 2 bicubic, `padding_mode` 0 zeros, 1 border or 2 reflection."""

    name = "grid_sampler"
    domains = ("mmcv", "mmdeploy")
    inputs = ("input", "grid")

    interpolation_mode: Literal[0, 1, 2] = 0
    padding_mode: Literal[0, 1, 2] = 0
    align_corners: Literal[0, 1] = 0

    def expand(self, op: Writer, input: Tensor, grid: Tensor) -> Tensor:
        mode, padding = MODES[self.interpolation_mode], PADDING[self.padding_mode]
        if op.opset < _GRID_SAMPLE:
            return sampled(op, input, grid, mode, padding, bool(self.align_corners))
        if op.opset >= _RENAMED:
            mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
        options = {"mode": mode, "padding_mode": padding, "align_corners": self.align_corners}
        return op.GridSample(input, grid, **options)
