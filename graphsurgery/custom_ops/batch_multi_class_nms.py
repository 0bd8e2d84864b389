"""BatchMultiClassNMS of CANN (GE's BatchMultiClassNonMaxSuppression): the best boxes of each image, of all classes.

    boxes [B, N, q, 4] of (x1, y1, x2, y2), q = 1 for all classes or one for each, scores [B, N, C]
    -> nmsed_boxes [B, T, 4], nmsed_scores [B, T], nmsed_classes [B, T], all float16, and nmsed_num [B], int32

NMS class by class; of what is left, at most `max_size_per_class` of a class, the `max_total_size` best of an image,
best first. The score and the box of one that is not above `score_threshold` are zeros, but its class stays; nmsed_num
counts the others. Rows behind what there is are zeros. mmdeploy writes it with its domain, the Ascend recipes without
one, since atc looks for it there.

Not imitated is what a kernel rounds: it keeps coordinates in float16, times 0.1, while it compares boxes, and in the
mode high_performance it looks at the best 4080 of a class. Among equal scores the kernel's order is not specified; here
the lower class comes first, then the lower index.

Source: CANN 8.1.RC1, the operator's prototype and its TBE kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from graphsurgery.graph.expansion import CustomOperator, Tensor, Writer

_NONE = float(np.finfo(np.float32).min)  # below each score, in place of one that is not there


@dataclass(frozen=True)
class BatchMultiClassNMS(CustomOperator):
    """A box goes that overlaps a better one of its class by more than `iou_threshold`."""

    name = "BatchMultiClassNMS"
    domains = ("", "mmdeploy")
    inputs = ("boxes", "scores", "clip_window?", "num_valid_boxes?")

    score_threshold: float
    iou_threshold: float
    max_size_per_class: int
    max_total_size: int
    change_coordinate_frame: Literal[0] = 0
    transpose_box: Literal[0] = 0
    image_size: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for option in ("max_size_per_class", "max_total_size"):
            if not 1 <= getattr(self, option) <= 1000:
                raise ValueError(f"attribute '{option}' is {getattr(self, option)}; it needs 1 to 1000")
        if self.image_size:
            raise ValueError("attribute 'image_size' is given, and only boxes in pixels are known here")

    def expand(
        self, op: Writer, boxes: Tensor, scores: Tensor, clip_window: Tensor | None, num_valid_boxes: Tensor | None
    ) -> tuple[Tensor, ...]:
        if clip_window is not None or num_valid_boxes is not None:
            given = "num_valid_boxes" if clip_window is None else "clip_window"
            raise ValueError(f"input '{given}' is given, and what it does is not known here")
        batch, count, classes = op.sizes(scores, 0, 1, 2)
        lines = op.Flatten(op.Transpose(op.cast(scores, "float32"), perm=[0, 2, 1]), axis=2)  # of a class, of an image
        corners = op.Transpose(op.cast(boxes, "float32"), perm=[0, 2, 1, 3])
        corners = op.Flatten(op.Expand(corners, [batch, classes, count, 4]), axis=2)
        corners = op.Reshape(corners, [0, -1, 4])
        kept = op.NonMaxSuppression(corners, op.unsqueeze(lines, 1), [self.max_size_per_class], [self.iou_threshold])
        nothing = op.Expand(_NONE, [batch * classes, count])
        places = op.Gather(kept, [0, 2], axis=1)
        left = op.Reshape(op.ScatterND(nothing, places, op.GatherND(lines, places)), [batch, -1])
        left = op.Concat(left, op.Expand(_NONE, [batch, self.max_total_size]), axis=1)
        best, index = op.write("TopK", left, [self.max_total_size], outputs=2, axis=1, largest=1, sorted=1)
        there = op.Greater(best, _NONE)
        threshold = float(np.float16(self.score_threshold))
        above = op.And(there, op.Greater(best, threshold))
        flat = op.Reshape(corners, [batch, -1, 4])
        flat = op.Concat(flat, op.Expand(0.0, [batch, self.max_total_size, 4]), axis=1)
        found = op.GatherElements(flat, op.Expand(op.unsqueeze(index, 2), [batch, self.max_total_size, 4]), axis=1)
        divisor = op.Where(op.Equal(count, 0), 1, count)  # a division by 0 would end the process
        labels = op.Where(there, op.Div(index, divisor), 0)
        return (
            op.cast(op.Where(op.unsqueeze(above, 2), found, 0.0), "float16"),
            op.cast(op.Where(above, best, 0.0), "float16"),
            op.cast(labels, "float16"),
            op.sum(op.cast(above, "int32"), 1),
        )
