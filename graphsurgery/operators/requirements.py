"""What passes demand of a node before their first edit, each in one wording.

A function returns what it asks for, or raises Refuse.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import constant, producer
from graphsurgery.operators.axes import integers, normalised
from graphsurgery.operators.operands import FLOATS, only_reader
from graphsurgery.operators.slices import sizes
from graphsurgery.rewrite import Editor, Refuse


def require_constant(tensor: gs.Tensor, what: str) -> np.ndarray:
    """Return the value of `tensor`, which `what` names with its verb: "its shape is"."""
    value = constant(tensor)
    if value is None:
        raise Refuse(f"{what} not constant")
    return value


def require_integers(node: gs.Node, name: str, index: int, what: str) -> list[int]:
    """Return the attribute `name` or the input that took its place, [] where it is absent; `what` as above."""
    held = integers(node, name, index)
    if held is None:
        raise Refuse(f"{what} not constant")
    return held


def require_dtype(tensor: gs.Tensor, edit: Editor, among: Sequence[str] = FLOATS, where: str = "") -> np.dtype[Any]:
    """Return the type of the elements, one of `among`; `where` says what it is needed for."""
    dtype = edit.dtype(tensor)
    if dtype is None or dtype.name not in among:
        kind = "of unknown type" if dtype is None else dtype.name
        raise Refuse(f"its elements are {kind}, not {', '.join(among[:-1])} or {among[-1]}{where}")
    return dtype


def require_shape(tensor: gs.Tensor, edit: Editor, ranks: Collection[int] = ()) -> list[int | None]:
    """Return the shape of the input `tensor`, None for a size that is not known; of one of `ranks`, where given."""
    shape = sizes(edit, tensor)
    if shape is None:
        raise Refuse("the rank of its input is not known")
    if ranks and len(shape) not in ranks:
        raise Refuse(f"the rank of its input is {len(shape)}, not {' or '.join(map(str, ranks))}")
    return shape


def require_image(tensor: gs.Tensor, edit: Editor) -> tuple[int, int, int]:
    """Return channels, height and width of the input `tensor` [N, C, H, W]; the batch may be of any size."""
    _, *known = shape = require_shape(tensor, edit, ranks=(4,))
    if None in known or 0 in known:
        raise Refuse(f"its channels, height and width are not known, or 0: {shape}")
    channels, height, width = (size or 0 for size in known)
    return channels, height, width


def require_broadcasting(edit: Editor) -> None:
    """Demand that an operator of two tensors may have a smaller one, as it may since operator set 7."""
    if edit.opset < 7:
        raise Refuse(f"operator set {edit.opset} doesn't broadcast")


def require_axes(axes: Sequence[int], rank: int) -> list[int]:
    """Return `axes` counted from the front."""
    counted = normalised(axes, rank)
    if counted is None:
        raise Refuse(f"its axes {list(axes)} are not right for {rank} axes")
    return counted


def require_unread(node: gs.Node, edit: Editor, what: str) -> None:
    """Demand that nothing reads what `node` writes beside its first output; `what` as above."""
    if any(out.outputs or edit.is_output(out) for out in node.outputs[1:]):
        raise Refuse(f"{what} read")


def require_read_once(tensor: gs.Tensor, edit: Editor) -> None:
    """Demand that one node alone reads what another writes, once, and that it is no output of any graph."""
    writer = producer(tensor)
    if writer is not None and only_reader(tensor, edit) is None:
        raise Refuse(f"what the {writer.op} writes is read elsewhere too, or is a graph output")
