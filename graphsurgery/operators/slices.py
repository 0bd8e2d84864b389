"""Slice, Reshape and their like in the form that an operator set wants, and chains of them that take a node's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.operators.axes import Bounds, normalised
from graphsurgery.rewrite import Editor, Refuse

TO_THE_END = 2**63 - 1
# The specification of Slice: INT_MAX stands for the end of an axis whose size is not known.
_BEYOND_ANY_SIZE = 2**31 - 1
# From these operator sets on the axes are an input.
_AXES_ARE_AN_INPUT = {"Squeeze": 13, "Unsqueeze": 13, "ReduceMean": 18}


@dataclass(frozen=True)
class Link:
    """An operator with one data input, and its parameters; `hint` ends the name of what it writes."""

    op: str
    parameters: tuple[gs.Tensor, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    hint: str = ""


def slicing(edit: Editor, hint: str, taken: Sequence[Bounds]) -> Link:
    """Return the Slice that takes `taken`; before operator set 10 all steps must be 1."""
    starts, ends = [each.start for each in taken], [each.end for each in taken]
    axes, steps = [each.axis for each in taken], [each.step for each in taken]
    if edit.opset < 10:
        return Link("Slice", (), {"axes": axes, "ends": ends, "starts": starts})
    named = {"starts": starts, "ends": ends, "axes": axes} | ({"steps": steps} if set(steps) != {1} else {})
    return Link("Slice", tuple(edit.constant(f"{hint}_{name}", values) for name, values in named.items()))


def reshaping(edit: Editor, hint: str, sizes: Sequence[int | None]) -> Link:
    """Return the Reshape to `sizes`; a 0 or None copies the size of the same axis, a -1 is computed."""
    return Link("Reshape", (edit.constant(f"{hint}_shape", [size or 0 for size in sizes]),))


def on_axes(edit: Editor, op: str, hint: str, axes: Sequence[int], attrs: Mapping[str, Any] | None = None) -> Link:
    """Return the Squeeze, Unsqueeze or ReduceMean of `axes`."""
    if edit.opset < _AXES_ARE_AN_INPUT[op]:
        return Link(op, (), {**(attrs or {}), "axes": list(axes)})
    return Link(op, (edit.constant(f"{hint}_axes", list(axes)),), dict(attrs or {}))


def padding(edit: Editor, hint: str, pads: Sequence[int], value: np.ndarray | None = None) -> Link:
    """Return the Pad with `value`, which is zero where none is given."""
    if edit.opset < 11:
        return Link("Pad", (), {"pads": list(pads)} | ({} if value is None else {"value": float(value)}))
    given = () if value is None else (edit.constant(f"{hint}_value", value),)
    return Link("Pad", (edit.constant(f"{hint}_pads", list(pads)), *given))


def casting(to: np.dtype[Any]) -> Link:
    """Return the Cast to one of NumPy's types."""
    return Link("Cast", attrs={"to": int(onnx.helper.np_dtype_to_tensor_dtype(to))}, hint=to.name)


def chain(edit: Editor, node: gs.Node, data: gs.Tensor, links: Sequence[Link]) -> None:
    """Send `data` through `links`, of which the last takes the place of `node` and writes what that wrote."""
    *inner, last = links
    for link in inner:
        hint = f"{node.outputs[0].name}_{link.hint or link.op.lower()}"
        data = edit.emit(link.op, [data, *link.parameters], link.attrs, hint=hint)
    edit.replace(node, last.op, [data, *last.parameters], last.attrs)


def rearrange(node: gs.Node, split: Sequence[int], perm: Sequence[int], merged: Sequence[int], edit: Editor) -> None:
    """Turn `node` into Reshape, Transpose and Reshape; `split` and `merged` are the sizes behind the batch."""
    if edit.opset < 5:
        raise Refuse(f"Reshape has its shape as an attribute in operator set {edit.opset}")
    name = node.outputs[0].name
    inner = [reshaping(edit, f"{name}_blocks", [0, *split]), Link("Transpose", attrs={"perm": list(perm)})]
    chain(edit, node, node.inputs[0], [*inner, reshaping(edit, name, [0, *merged])])


def sizes(edit: Editor, tensor: gs.Tensor) -> list[int | None] | None:
    """Return the shape of `tensor`, None for a size that is not known; None where the rank is not."""
    shape = edit.shape(tensor)
    return None if shape is None else [size if isinstance(size, int) and size >= 0 else None for size in shape]


def locate(edit: Editor, tensor: gs.Tensor, axis: int) -> tuple[int, int | None]:
    """Return `axis` of `tensor` as a new node may write it, and its size if known; raise Refuse where it may not.

    That is from the front, or as it stands where the rank is not known: operators count from the back since
    operator set 11.
    """
    known = sizes(edit, tensor)
    if known is None and (axis >= 0 or edit.opset >= 11):
        return axis, None
    found = None if known is None else normalised([axis], len(known))
    if known is None or found is None:
        raise Refuse("nothing tells which axis, counted from the front, it works along")
    return found[0], known[found[0]]


def picked(taken: Bounds, size: int) -> range:
    """Return the indices that a Slice with a positive step takes of an axis of `size`."""
    return range(*slice(taken.start, taken.end, taken.step).indices(size))  # Python clamps as ONNX does


def takes_all(taken: Bounds) -> bool:
    """Whether it takes the whole axis, whatever its size."""
    return taken.start == 0 and taken.step == 1 and reaches_the_end(taken)


def reaches_the_end(taken: Bounds) -> bool:
    """Whether it goes on to the end of the axis, whatever its size."""
    return bool(taken.end >= _BEYOND_ANY_SIZE)


def relabelled(sources: Sequence[int | None], given: Sequence[int | None]) -> list[int]:
    """Return the sizes to write for a Reshape which only adds or drops axes of size 1.

    Axis i of the result is axis `sources[i]` of the input, whose shape is `given`, or new where that is None. Raises
    Refuse where no such Reshape is right for every size that `given` leaves open: a size that is not known can be
    copied to the same axis by a 0; elsewhere it must be computed from the others, which then may not be 0.
    """
    written: list[int] = []
    for axis, source in enumerate(sources):
        size = 1 if source is None else given[source]
        written.append(size if size is not None else 0 if source == axis else -1)
    copies = all(size != 0 or source == axis for axis, (size, source) in enumerate(zip(written, sources, strict=True)))
    if not copies or written.count(-1) > 1 or {0, -1} <= set(written):
        raise Refuse("its sizes that are not known, or 0, can't be written down for a Reshape")
    return written
