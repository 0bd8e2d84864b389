"""Turn YOLOv5's Focus, four strided slices of an image and a Concat, into the one operator that it is.

    Concat(x[.., 0::2, 0::2], x[.., 1::2, 0::2], x[.., 0::2, 1::2], x[.., 1::2, 1::2], axis 1)
                          ->  Conv(x, kernel 2x2, strides 2, one tap of 1 for each output channel)
    by: space-to-depth    ->  Gather(SpaceToDepth(x, blocksize 2), channels in the order of the Concat)

Slices with steps are what a compiler stumbles over first in YOLOX and in YOLOv5 before release 6: OpenCV, ncnn and
RKNN-Toolkit refused them (opencv issue 18920, YOLOv5-Lite issue 97, YOLOX issue 434). The four parts may come in any
order, each as a Slice of two axes or as two Slices of one, which parts may share. A Conv takes any order; SpaceToDepth
has one of its own, row by row, so another one needs the Gather.

Values are equal to the last bit, with one limit of `by: conv`: 0 x Inf is NaN, so an Inf or NaN spoils all channels of
its 2x2 block (and -0 may become +0).

It does not fire when
1. its input does not have four axes, or the Concat runs along another axis than the channels
2. the slices are not each every second element of height and width to the end (of sizes that are known and even, or
   of any size: the Concat could not join the parts of an odd one)
3. two of them are the same
4. the number of channels is not known, where it is needed: for the Conv and for the Gather
5. the elements are none that ONNX Runtime, which judges, has a Conv or a SpaceToDepth for
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import is_op, producer
from graphsurgery.operators.axes import Bounds, bounds, normalised
from graphsurgery.operators.operands import CONV_FLOATS, FLOATS
from graphsurgery.operators.requirements import require_dtype
from graphsurgery.operators.slices import picked, reaches_the_end, sizes, takes_all
from graphsurgery.rewrite import Editor, NodePass, Refuse

_CORNERS = [(0, 0), (0, 1), (1, 0), (1, 1)]  # of a 2x2 block, in the order of SpaceToDepth
_MOVED = (*FLOATS, "int8", "uint8")  # what ONNX Runtime has a SpaceToDepth for


@dataclass(frozen=True)
class LowerFocus(NodePass):
    """`by` is what it becomes: `conv`, or `space-to-depth` (with a Gather where the channels are in another order)."""

    name = "lower-focus"
    effect = "exact"
    matches = ("Concat",)

    by: Literal["conv", "space-to-depth"] = "conv"

    def __post_init__(self) -> None:
        if self.by not in ("conv", "space-to-depth"):
            raise ValueError(f"by must be conv or space-to-depth, not {self.by}")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if len(node.inputs) != 4:
            return
        parts = [part for part in map(_strided, node.inputs) if part is not None]
        if len(parts) != 4 or any(source is not parts[0][0] for source, _ in parts):
            return
        image = parts[0][0]
        shape = sizes(edit, image)
        if shape is None or len(shape) != 4 or node.attrs.get("axis") not in (1, -3):
            raise Refuse("it does not join slices of a tensor with four axes along the channels")
        corners = [corner for corner in (_corner(taken, shape) for _, taken in parts) if corner is not None]
        if len(corners) != 4:
            raise Refuse("its slices are not every second element of an even height and width")
        if len(set(corners)) != 4:
            raise Refuse("two of its slices are the same")
        dtype = require_dtype(image, edit, _MOVED if self.by == "space-to-depth" else CONV_FLOATS)
        channels = shape[1]
        if self.by == "space-to-depth" and corners == _CORNERS:
            return edit.replace(node, "SpaceToDepth", [image], {"blocksize": 2})
        if not channels:
            raise Refuse("its number of channels is not known")
        hint = node.outputs[0].name
        if self.by == "space-to-depth":
            blocks = edit.emit("SpaceToDepth", [image], {"blocksize": 2}, hint=f"{hint}_blocks", dtype=image.dtype)
            first = np.array([[_CORNERS.index(corner) * channels] for corner in corners])
            order = edit.constant(f"{hint}_order", (first + np.arange(channels)).ravel())
            return edit.replace(node, "Gather", [blocks, order], {"axis": 1})
        taps = np.zeros((4, channels, channels, 2, 2), dtype)
        for part, (row, column) in enumerate(corners):
            taps[part, range(channels), range(channels), row, column] = 1
        weight = edit.constant(f"{hint}_taps", taps.reshape(4 * channels, channels, 2, 2))
        unit = {"dilations": [1, 1], "group": 1, "kernel_shape": [2, 2], "pads": [0] * 4, "strides": [2, 2]}
        edit.replace(node, "Conv", [image, weight], unit)


def _strided(tensor: gs.Tensor) -> tuple[gs.Tensor, list[Bounds]] | None:
    """Return what `tensor` is a slice of, with step 2 along two axes, and the bounds; None where it is none."""
    taken: list[Bounds] = []
    while sum(each.step == 2 for each in taken) < 2:
        node = producer(tensor)
        found = bounds(node) if node is not None and is_op(node, "Slice") else None
        if node is None or found is None:
            return None
        taken += found
        tensor = node.inputs[0]
    return tensor, taken


def _corner(taken: Sequence[Bounds], shape: Sequence[int | None]) -> tuple[int, int] | None:
    """Return the row and column that `taken` picks of every 2x2 block; None where it picks anything else."""
    taken = [each for each in taken if not takes_all(each)]
    axes = normalised([each.axis for each in taken], len(shape))
    if axes is None or sorted(axes) != [2, 3]:
        return None
    row, column = (_phase(taken[axes.index(axis)], shape[axis]) for axis in (2, 3))
    return None if row is None or column is None else (row, column)


def _phase(taken: Bounds, size: int | None) -> int | None:
    """Return where every second element of an axis begins, 0 or 1, where it goes on to the end; else None."""
    if size is not None:
        elements = picked(taken, size)
        return elements[0] if elements and taken.step == 2 and 2 * len(elements) == size else None
    return taken.start if taken.step == 2 and taken.start in (0, 1) and reaches_the_end(taken) else None
