"""Merge Reshape, Flatten, Squeeze and Unsqueeze in a row into one Reshape, and drop what changes no shape.

    x -> Flatten -> Unsqueeze([2]) -> Reshape([2, 8, 8, 12]) -> y   ->   x -> Reshape([2, 8, 8, 12]) -> y
    x: [N, 3, 8, 8] -> Reshape([0, 3, -1]) -> Unsqueeze([1]) -> y   ->   x -> Reshape([-1, 1, 3, 64]) -> y
    x: [N, 3] -> Unsqueeze([2]) -> Squeeze([2]) -> y                ->   x, read as y

Compilers keep each of them as a copy in memory or a trip to the CPU. All four leave the elements in their order, so
the last shape alone counts. It is known, apart from one dimension, from what is written down, from shape inference,
or by following the dimensions of x. Where y is an output and its name can't be written by what writes x, an Identity
stays. The first node stays too where something else reads it.

It does not fire when
1. nothing tells the last shape: it is computed, or an input, and a zero in it would copy a size of the first shape
2. more than one dimension of it is not known, other than those that stand at the same place in x
3. one dimension is not known and another is zero, or the shape holds a zero before operator set 14: a Reshape can't
   say that
4. a Squeeze has an empty list of axes, by which some mean all and some none
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant, is_op, producer
from graphsurgery.operators.axes import integers, normalised
from graphsurgery.operators.operands import optional
from graphsurgery.rewrite import Editor, NodePass, Refuse

_RELAYOUTS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_ALLOWZERO = 14  # the first operator set in which a zero in the shape of a Reshape may mean zero


@dataclass(frozen=True)
class _Axis:
    """The size of this axis of x, which is not known."""

    index: int


_Dim = int | _Axis | None  # None: nothing is known


class MergeReshapes(NodePass):
    name = "merge-reshapes"
    effect = "exact"
    matches = _RELAYOUTS

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        inner = producer(node.inputs[0])
        chain = [node] if inner is None or not is_op(inner, *_RELAYOUTS) else [inner, node]
        if any(is_op(step, "Squeeze") and _empty_axes(step) for step in chain):
            raise Refuse("it, or the Squeeze before it, has an empty list of axes")
        source = chain[0].inputs[0]
        if len(chain) == 2 and _says_all(node):
            return edit.set_input(node, 0, source)
        start = _sizes(source, edit)
        dims = start
        for step in chain:
            dims = _completed(_follow(step, dims), _written_shape(step, edit))
        if dims is not None and dims == start and None not in dims:
            edit.bypass(node, source)
            return
        if len(chain) == 1:
            return
        target = _target(dims, edit.opset)
        attrs = {"allowzero": 1} if 0 in target and all(isinstance(dim, int) for dim in dims or ()) else {}
        edit.replace(node, "Reshape", [source, edit.constant(f"{node.outputs[0].name}_shape", target)], attrs)


def _says_all(node: gs.Node) -> bool:
    """Whether `node` is a Reshape whose shape does not refer to that of its input, apart from the size of it all."""
    if not is_op(node, "Reshape") or len(node.inputs) < 2:
        return False
    shape = constant(node.inputs[1])
    return bool(attribute(node, "allowzero", 0)) or (shape is not None and 0 not in shape)


def _empty_axes(squeeze: gs.Node) -> bool:
    given = "axes" in squeeze.attrs or optional(squeeze, 1) is not None
    return given and integers(squeeze, "axes", 1) == []


def _sizes(tensor: gs.Tensor, edit: Editor) -> list[_Dim] | None:
    shape = edit.shape(tensor)
    return None if shape is None else [d if isinstance(d, int) else _Axis(i) for i, d in enumerate(shape)]


def _written_shape(node: gs.Node, edit: Editor) -> Sequence[int | str | None] | None:
    """Return the shape of what `node` writes; None where a caller gives it: inference takes its default for granted."""
    given = len(node.inputs) > 1 and constant(node.inputs[1]) is None and producer(node.inputs[1]) is None
    return None if given else edit.shape(node.outputs[0])


def _completed(dims: list[_Dim] | None, known: Sequence[int | str | None] | None) -> list[_Dim] | None:
    """Return `dims` with the numbers filled in that are `known`."""
    if known is None or (dims is not None and len(dims) != len(known)):
        return dims
    numbers = [size if isinstance(size, int) else None for size in known]
    return [
        d if isinstance(d, int) or n is None else n for d, n in zip(dims or [None] * len(numbers), numbers, strict=True)
    ]


def _follow(node: gs.Node, dims: list[_Dim] | None) -> list[_Dim] | None:
    """Return the dimensions of what `node` writes, given those of what it reads; None where nothing is known."""
    if is_op(node, "Reshape"):
        return _reshaped(node, dims)
    if dims is None:
        return None
    if is_op(node, "Flatten"):
        axis = attribute(node, "axis", 1)
        axis += len(dims) if axis < 0 else 0
        return [_product(dims[:axis]), _product(dims[axis:])]
    axes = integers(node, "axes", 1)
    if axes is None:
        return None
    if is_op(node, "Unsqueeze"):
        places = normalised(axes, len(dims) + len(axes))
        rest = iter(dims)
        return None if places is None else [1 if i in places else next(rest) for i in range(len(dims) + len(axes))]
    if not axes:
        return [dim for dim in dims if dim != 1] if all(isinstance(dim, int) for dim in dims) else None
    places = normalised(axes, len(dims))
    return None if places is None else [dim for i, dim in enumerate(dims) if i not in places]


def _reshaped(node: gs.Node, dims: list[_Dim] | None) -> list[_Dim] | None:
    shape = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if shape is None:
        return None
    written: list[_Dim] = [int(size) for size in np.ravel(shape)]
    if not attribute(node, "allowzero", 0):
        copied = [*(dims or ()), *[None] * len(written)]
        written = [copied[i] if size == 0 else size for i, size in enumerate(written)]
    if -1 in written:
        place = written.index(-1)
        written[place] = _rest(dims, [*written[:place], *written[place + 1 :]])
    return written


def _product(dims: Sequence[_Dim]) -> _Dim:
    number, open_ = math.prod(d for d in dims if isinstance(d, int)), [d for d in dims if not isinstance(d, int)]
    if not open_ or number == 0:
        return number
    return open_[0] if len(open_) == 1 and number == 1 else None


def _rest(dims: Sequence[_Dim] | None, others: Sequence[_Dim]) -> _Dim:
    """Return the size that makes `others` as many elements as `dims`."""
    left = list(dims or [None])
    divisor = 1
    for dim in others:
        if isinstance(dim, int):
            divisor *= dim
        elif dim is None or dim not in left:
            return None
        else:
            left.remove(dim)
    if None in left or divisor == 0:
        return None
    number, open_ = math.prod(d for d in left if isinstance(d, int)), [d for d in left if not isinstance(d, int)]
    return None if number % divisor else _product([number // divisor, *open_])


def _target(dims: list[_Dim] | None, opset: int) -> list[int]:
    """Return the shape for a Reshape of x, or raise Refuse where there is none."""
    if dims is None:
        raise Refuse("the shape of its output is not known")
    numbers = [dim if isinstance(dim, int) else None for dim in dims]
    if 0 in numbers and (None in numbers or opset < _ALLOWZERO):
        raise Refuse("one dimension of its output is zero, which a Reshape can't say here")
    if numbers.count(None) <= 1:
        return [-1 if number is None else number for number in numbers]
    if all(isinstance(dim, int) or dim == _Axis(i) for i, dim in enumerate(dims)):
        return [number or 0 for number in numbers]
    raise Refuse("more than one dimension of its output is not known")
