"""NonMaxSuppression of mmcv: which boxes stay, of one class and one image.

    boxes [N, 4] of (x1, y1, x2, y2), scores [N]   ->   indices [M], int64, the best first

Source: mmcv 1.6.0, ops/csrc/onnxruntime/cpu/nms.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphsurgery.graph.expansion import CustomOperator, Tensor, Writer


@dataclass(frozen=True)
class MMCVNonMaxSuppression(CustomOperator):
    """A box goes that overlaps a better one by more than `iou_threshold`; sides are x2 - x1 + `offset`."""

    name = "NonMaxSuppression"
    domains = ("mmcv",)
    inputs = ("boxes", "scores")

    iou_threshold: float
    offset: Literal[0, 1] = 0

    def expand(self, op: Writer, boxes: Tensor, scores: Tensor) -> Tensor:
        corners = op.float32(boxes)
        if self.offset:
            corners = op.Add(corners, [0.0, 0.0, 1.0, 1.0])
        kept = op.NonMaxSuppression(
            op.unsqueeze(corners, 0),
            op.unsqueeze(op.float32(scores), 0, 1),
            op.Shape(scores),  # no more than there are
            [self.iou_threshold],
        )
        return op.Gather(kept, 2, axis=1)
