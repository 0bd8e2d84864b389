"""What stands in an attribute in one operator set and in an input in another: axes, and the bounds of a Slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant


@dataclass(frozen=True)
class Bounds:
    """What a Slice takes along one axis; `axis` may be negative, the others as written, unclamped."""

    axis: int
    start: int
    end: int
    step: int


def integers(node: gs.Node, name: str, index: int) -> list[int] | None:
    """Return the attribute `name`, or the input at `index` that took its place: [] if absent, None if not constant.

    Attribute and input never both exist in one operator set.
    """
    if name in node.attrs:
        held = node.attrs[name]
        return [int(value) for value in held] if isinstance(held, Sequence | np.ndarray) else [int(held)]
    if len(node.inputs) <= index or not node.inputs[index].name:
        return []
    value = constant(node.inputs[index])
    return None if value is None else [int(item) for item in np.ravel(value)]


def normalised(axes: Sequence[int], rank: int) -> list[int] | None:
    """Return `axes` counted from the front; None where one is out of range or stands twice."""
    counted = [axis + rank if axis < 0 else axis for axis in axes]
    fine = all(0 <= axis < rank for axis in counted) and len(set(counted)) == len(counted)
    return counted if fine else None


def bounds(node: gs.Node) -> list[Bounds] | None:
    """Return what a Slice takes, axis by axis; None where that is not constant."""
    starts, ends = integers(node, "starts", 1), integers(node, "ends", 2)
    axes, steps = integers(node, "axes", 3), integers(node, "steps", 4)
    if starts is None or ends is None or axes is None or steps is None or len(starts) != len(ends):
        return None
    axes = axes or list(range(len(starts)))
    steps = steps or [1] * len(starts)
    if not len(axes) == len(steps) == len(starts):
        return None
    return [Bounds(*each) for each in zip(axes, starts, ends, steps, strict=True)]


def keeps_dims(node: gs.Node) -> bool:
    """Whether a reduction keeps the axes it reduces, as size 1."""
    return bool(attribute(node, "keepdims", 1))
