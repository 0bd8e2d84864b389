"""MMCVMultiLevelRoiAlign of mmdeploy: MMCVRoiAlign of a feature pyramid, each region on the level of its size.

    rois [K, 5] of (image, x1, y1, x2, y2), features [N, C, H_l, W_l] of each level   ->   output [K, C, height, width]

A region's level is floor(log2(sqrt(w * h) / finest_scale + 1e-6)), at least the first and at most the last.

Source: mmdeploy 3f8604b, the plug-in multi_level_roi_align of its TensorRT backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphsurgery.custom_ops._roi_align import aligned, of_levels, sizes_of, split, widened
from graphsurgery.graph.expansion import CustomOperator, Tensor, Writer


@dataclass(frozen=True)
class MMCVMultiLevelRoiAlign(CustomOperator):
    """`featmap_strides` are pixels per cell of each level, `pool_mode` is 1, the average.

    `roi_scale_factor` above 0 makes a region larger, after its level is known: w to (w + 1) * factor - 1.
    """

    name = "MMCVMultiLevelRoiAlign"
    domains = ("mmdeploy", "mmcv")
    inputs = ("rois", "*features")

    output_height: int
    output_width: int
    featmap_strides: tuple[float, ...]
    pool_mode: Literal[1] = 1
    sampling_ratio: int = 0
    roi_scale_factor: float = -1.0
    finest_scale: int = 56
    aligned: Literal[0, 1] = 1

    def expand(self, op: Writer, rois: Tensor, features: list[Tensor]) -> Tensor:
        if len(features) != len(self.featmap_strides):
            raise ValueError(f"it has {len(features)} feature maps and {len(self.featmap_strides)} featmap_strides")
        boxes, images = split(op, op.float32(rois))
        size = sizes_of(op, boxes) / float(self.finest_scale) + 1e-6
        reached = [op.Not(op.Less(size, float(2**level))) for level in range(1, len(features))]
        boxes = self._scaled(op, boxes)
        bins = (self.output_height, self.output_width)
        levels = []
        for stride, held in zip(self.featmap_strides, features, strict=True):
            level, scale = op.float32(held), 1 / stride
            if self.aligned:
                levels.append(aligned(op, level, boxes, images, bins, self.sampling_ratio, scale))
            else:
                levels.append(widened(op, level, boxes * scale, images, bins, self.sampling_ratio))
        return op.like(of_levels(op, levels, reached), features[0])

    def _scaled(self, op: Writer, boxes: Tensor) -> Tensor:
        """Return the boxes by `roi_scale_factor`; one that ends before it begins is empty."""
        first, last = op.Slice(boxes, [0], [2], [1]), op.Slice(boxes, [2], [4], [1])
        if self.roi_scale_factor > 0:
            middle, half = (first + last) * 0.5, (last - first + 1.0) * (self.roi_scale_factor * 0.5) - 0.5
            first, last = middle - half, middle + half
        return op.Concat(first, op.Max(first, last) if self.aligned else last, axis=1)
