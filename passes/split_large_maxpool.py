"""Split a large MaxPool into a cascade of small ones, for accelerators whose pooling window is small.

    MaxPool(kernel 5x5, pads 2)  ->  MaxPool(kernel 3x3, pads 1)  ->  MaxPool(kernel 3x3, pads 1)

SPP blocks of YOLO pool 5x5, 9x9 and 13x13 with stride 1. TI's C2000 NPU takes windows up to 4x4; the driver 1.6 of
Rockchip's RV1126 computes those above 7x7 wrong (rockchip-linux/rknn-toolkit issue 234). Exact: a maximum of maxima is
the maximum of all, and padding adds nothing to it (-Inf).

Why the borders agree. One step gives y[i] = max x[i - b .. i - b + k - 1], of which only what is in x counts; the
next takes the maximum of y[j - b' .. j - b' + k' - 1]. Together they read x[j - b - b' .. j - b - b' + k + k' - 2]: the
window k + k' - 1 with the pads b + b'. At the left border there is no y[i] with i < 0; but what that would have read of
x begins at x[0], as for y[0], and ends earlier, so y[0] has it, and y[0] is in the window of y since b' < k'. Same at
the right. The pads are shared out in proportion to the windows, rounded up: no step pads by its window or more, and
no size in between is smaller than both the input's and the output's. So any pads will do, and an even window too.

It does not fire when
1. the window is no larger than `largest`
2. it has a stride (split-large-pool splits some of these), or dilates
3. the indices of the maxima are read too
4. its attributes contradict each other, or it pads by a window or more
5. nothing tells that the window fits into the padded input: it may be empty in between (with the pads of SAME it fits)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.requirements import require_unread
from graphsurgery.operators.slices import Link, chain
from graphsurgery.operators.windows import Window, window, windowing
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class SplitLargeMaxpool(NodePass):
    """`largest` is the longest side that a window may have, from 2 up."""

    name = "split-large-maxpool"
    effect = "exact"
    matches = ("MaxPool",)

    largest: int = 3

    def __post_init__(self) -> None:
        if self.largest < 2:
            raise ValueError(f"largest must be 2 or more, not {self.largest}")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        kernel = list(attribute(node, "kernel_shape", []))
        if max(kernel, default=0) <= self.largest:
            return
        if any(size != 1 for name in ("strides", "dilations") for size in attribute(node, name, [])):
            raise Refuse("it has a stride, or dilates")
        require_unread(node, edit, "the indices of the maxima are")
        # with stride 1, SAME pads by the window less one whatever the size is, and rounding up changes nothing
        whole = window(node, kernel, [1] * len(kernel))
        if whole is None or not all(0 <= pad < size for pad, size in zip(whole.pads, kernel * 2, strict=True)):
            raise Refuse("its attributes contradict each other, or it pads by a window or more")
        if not all(_fits(whole, axis, node, edit) for axis in range(len(kernel))):
            raise Refuse("nothing tells that its window fits into its input")
        steps = enumerate(_steps(whole, self.largest), start=1)
        chain(edit, node, node.inputs[0], [Link("MaxPool", (), attrs, f"step{number}") for number, attrs in steps])


def _fits(whole: Window, axis: int, node: gs.Node, edit: Editor) -> bool:
    """Whether there is a whole window along a spatial axis, pads included."""
    pads = whole.begins[axis] + whole.ends[axis]
    if pads >= whole.kernel[axis] - 1:
        return True
    shape = edit.shape(node.inputs[0])
    size = shape[axis + 2] if shape is not None and len(shape) == len(whole.kernel) + 2 else None
    return isinstance(size, int) and size + pads >= whole.kernel[axis]


def _steps(whole: Window, largest: int) -> list[dict[str, Any]]:
    """Return the attributes of the cascade; windows of k and k' make one of k + k' - 1."""
    reach = [size - 1 for size in whole.kernel]
    steps = []
    done = [0] * len(reach)
    while done != reach:
        after = [min(now + largest - 1, end) for now, end in zip(done, reach, strict=True)]
        pads = [
            _share(pad, after[axis], reach[axis]) - _share(pad, done[axis], reach[axis])
            for side in (whole.begins, whole.ends)
            for axis, pad in enumerate(side)
        ]
        kernel = [end - begin + 1 for begin, end in zip(done, after, strict=True)]
        steps.append(windowing(kernel, pads=pads))
        done = after
    return steps


def _share(pad: int, part: int, whole: int) -> int:
    return -(-pad * part // whole) if whole else 0
