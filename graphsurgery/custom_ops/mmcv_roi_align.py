"""MMCVRoiAlign of mmcv: averages of the features in the bins of each region.

    input [N, C, H, W], rois [K, 5] of (image, x1, y1, x2, y2)   ->   output [K, C, height, width]

It is RoiAlign, with half_pixel where it is aligned. A maximum is not: ONNX takes that of the weighted corners, mmcv
that of the interpolated values.

Source: mmcv 1.6.0, ops/csrc/onnxruntime/cpu/roi_align.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphsurgery.custom_ops._roi_align import aligned, split, widened
from graphsurgery.graph.expansion import CustomOperator, Tensor, Writer


@dataclass(frozen=True)
class MMCVRoiAlign(CustomOperator):
    """Coordinates times `spatial_scale` are cells; `aligned` moves them by half a cell and keeps small regions small.

    `sampling_ratio` is how many samples a bin has along one axis, 0 for as many as it has cells.
    """

    name = "MMCVRoiAlign"
    domains = ("mmcv", "mmdeploy")
    inputs = ("input", "rois")

    output_height: int
    output_width: int
    spatial_scale: float = 1.0
    sampling_ratio: int = 0
    mode: Literal["avg"] = "avg"
    aligned: Literal[0, 1] = 1

    def expand(self, op: Writer, input: Tensor, rois: Tensor) -> Tensor:
        boxes, images = split(op, op.float32(rois))
        features, bins = op.float32(input), (self.output_height, self.output_width)
        if self.aligned:
            made = aligned(op, features, boxes, images, bins, self.sampling_ratio, self.spatial_scale)
        else:
            made = widened(op, features, boxes * self.spatial_scale, images, bins, self.sampling_ratio)
        return op.like(made, input)
