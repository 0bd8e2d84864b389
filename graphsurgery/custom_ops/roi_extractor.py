"""RoiExtractor of CANN: averages of the bins of each region, on the level of a feature pyramid that fits its size.

    features [N, C, H_l, W_l] of each level, rois [K, 5] of (image, x1, y1, x2, y2), or [K, 4] of the first image
    -> y [K, C, height, width]

Regions whose s = sqrt(w * h), in float16, is up to 2 * finest_scale are of the first level, up to twice that of the
second, and so on. So a tie goes down, where mmdetection and detectron2 send it up. A region below one cell is taken for
one of a cell, aligned or not.

mmdeploy writes it with its domain, the Ascend recipes without one, since atc looks for it there.

Source: CANN 8.1.RC1, the operator's prototype and its TBE kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphsurgery.custom_ops._roi_align import of_levels, sizes_of, split, widened
from graphsurgery.graph.expansion import CustomOperator, Tensor, Writer


@dataclass(frozen=True)
class RoiExtractor(CustomOperator):
    """`spatial_scale` are cells per pixel of each level, `sample_num` the samples of a bin along one axis (0: cells).

    `aligned` moves regions by half a cell. The kernel doesn't look at `roi_scale_factor`.
    """

    name = "RoiExtractor"
    domains = ("", "mmdeploy")
    inputs = ("*features", "rois")

    finest_scale: int = 56
    roi_scale_factor: float = 0.0
    spatial_scale: tuple[float, ...] = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
    pooled_height: int = 7
    pooled_width: int = 7
    sample_num: int = 0
    pool_mode: Literal["avg"] = "avg"
    aligned: Literal[0, 1] = 1

    def __post_init__(self) -> None:
        if self.pooled_height != self.pooled_width:
            seen = f"{self.pooled_height} and {self.pooled_width}"
            raise ValueError(f"attributes 'pooled_height' and 'pooled_width' are {seen}; the kernel has squares only")

    def expand(self, op: Writer, features: list[Tensor], rois: Tensor) -> Tensor:
        if len(features) != len(self.spatial_scale):
            raise ValueError(f"it has {len(features)} feature maps and {len(self.spatial_scale)} spatial_scale")
        plain = op.float32(rois)
        # the last five of six columns: those of the regions, or a zero for the image and the four that there are
        zeros = op.Slice(plain, [0], [1], [1]) * 0.0
        boxes, images = split(op, op.Slice(op.Concat(zeros, plain, axis=1), [-5], [6], [1]))
        size = op.cast(op.cast(sizes_of(op, boxes), "float16"), "float32")
        reached = [op.Greater(size, float(2**level * self.finest_scale)) for level in range(1, len(features))]
        levels = []
        for scale, held in zip(self.spatial_scale, features, strict=True):
            cells = boxes * scale - 0.5 if self.aligned else boxes * scale
            bins = (self.pooled_height, self.pooled_width)
            levels.append(widened(op, op.float32(held), cells, images, bins, self.sample_num))
        return op.like(of_levels(op, levels, reached), features[0])
