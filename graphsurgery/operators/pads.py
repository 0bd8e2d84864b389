"""What a Pad puts around its input: axis by axis, in each form that the operator sets have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant
from graphsurgery.operators.axes import integers, normalised
from graphsurgery.operators.operands import optional
from graphsurgery.rewrite import Refuse


@dataclass(frozen=True)
class Padding:
    """What a Pad puts before and behind each axis; `value` is what it fills in where its mode is constant."""

    mode: str
    begins: list[int]
    ends: list[int]
    value: np.ndarray


def require_padding(pad: gs.Node, rank: int, named: str) -> Padding:
    """Return what `pad`, of a tensor of that rank, puts around it; raise Refuse, which calls it `named`."""
    mode, filled = str(attribute(pad, "mode", "constant")), optional(pad, 2)
    value = np.asarray(attribute(pad, "value", 0.0)) if filled is None else constant(filled)
    pads, axes = integers(pad, "pads", 1), integers(pad, "axes", 3)
    if pads is None or axes is None or value is None or value.dtype.kind not in "iuf":
        raise Refuse(f"{named} has pads or a value that is not constant, or no number")
    if min(pads, default=0) < 0:
        raise Refuse(f"{named} crops: one of its pads is negative")
    places = normalised(axes or range(rank), rank)
    if places is None or len(pads) != 2 * len(places):
        raise Refuse(f"{named} has pads that do not fit its input")
    begins, ends = [0] * rank, [0] * rank
    for index, axis in enumerate(places):
        begins[axis], ends[axis] = pads[index], pads[len(places) + index]
    return Padding(mode, begins, ends, value)
