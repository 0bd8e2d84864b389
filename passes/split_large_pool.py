"""Split pooling over a large window into a cascade over small ones, for accelerators whose window is small.

    GlobalAveragePool(x [n, c, 32, 56])       ->  AveragePool(8x8, strides 8x8)  ->  AveragePool(4x7, strides 4x7)
    AveragePool(kernel 12x1, strides 12x1)    ->  AveragePool(6x1, strides 6x1)  ->  AveragePool(2x1, strides 2x1)
    GlobalMaxPool, MaxPool                    ->  the same with MaxPool

An average of averages of equally many elements is the average of all, so the windows must tile: stride = window,
nothing padded. Then floor(floor(n / a) / b) = floor(n / ab), and the same elements are left out at the end. Equal to
rounding; in float16 what is in between is rounded too. Huawei's Ascend hands windows above 255 in a side or 256
in area to its AI CPU (CANN's operator list, AveragePool and MaxPool): `largest: 16` keeps below.

It does not fire when
1. no side of the window is above `largest`
2. the height or the width of its input is not known, or less than the window (onnxruntime pools what there is)
3. such a side has a prime factor above `largest`
4. the windows overlap or leave gaps along such a side, unless there is just one of them
5. it pads, dilates, or rounds up (ceil_mode) to a window that is not full
6. the indices of the maxima are read too
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, is_op
from graphsurgery.operators.requirements import require_unread
from graphsurgery.operators.slices import Link, chain
from graphsurgery.operators.windows import window, windowing
from graphsurgery.rewrite import Editor, NodePass, Refuse

_WINDOWED = {"GlobalAveragePool": "AveragePool", "GlobalMaxPool": "MaxPool"}

Side = tuple[int, int]  # window and stride along one axis


@dataclass(frozen=True)
class SplitLargePool(NodePass):
    """`largest` is the longest side that a window may have, from 2 up."""

    name = "split-large-pool"
    effect = "exact"
    matches = ("AveragePool", "MaxPool", *_WINDOWED)

    largest: int = 8

    def __post_init__(self) -> None:
        if self.largest < 2:
            raise ValueError(f"largest must be 2 or more, not {self.largest}")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if not is_op(node, *_WINDOWED) and max(attribute(node, "kernel_shape", []), default=0) <= self.largest:
            return
        require_unread(node, edit, "the indices of the maxima are")
        sides = _sides(node, self.largest, edit)
        if max((size for size, _ in sides), default=0) <= self.largest:
            return
        op = _WINDOWED.get(node.op, node.op)
        steps = zip_longest(*(_split(side, self.largest) for side in sides), fillvalue=(1, 1))
        links = []
        for number, step in enumerate(steps, start=1):
            kernel, strides = zip(*step, strict=True)
            links.append(Link(op, (), windowing(kernel, strides), f"step{number}"))
        chain(edit, node, node.inputs[0], links)


def _sides(node: gs.Node, largest: int, edit: Editor) -> list[Side]:
    """Return window and stride along each axis; raise Refuse where the stride of a long window is not the window."""
    shape = edit.shape(node.inputs[0])
    sizes = [size for size in (shape or [])[2:] if isinstance(size, int) and size > 0]
    if shape is None or len(sizes) != len(shape) - 2:
        raise Refuse("the size that it pools is not known")
    if is_op(node, *_WINDOWED):
        return [(size, size) for size in sizes]
    pool = window(node, attribute(node, "kernel_shape", []), sizes)
    if pool is None or pool.padded or any(size != 1 for size in pool.dilations):
        raise Refuse("it pads or dilates")
    sides = []
    for size, stride, before in zip(pool.kernel, pool.strides, sizes, strict=True):
        if size > before:
            raise Refuse("its window is larger than its input")
        if attribute(node, "ceil_mode", 0) and (before - size) % stride != 0:
            raise Refuse("it rounds up, to a window that is not full")
        if size > largest and size not in (stride, before):
            raise Refuse("its windows overlap or leave gaps")
        sides.append((size, size if size > largest else stride))
    return sides


def _split(side: Side, largest: int) -> list[Side]:
    """Return windows up to `largest` that make `side` one after the other; raise Refuse where there are none."""
    left, _ = side
    if left <= largest:
        return [side]
    parts = []
    while left > 1:
        part = next((part for part in range(min(left, largest), 1, -1) if left % part == 0), None)
        if part is None:
            raise Refuse(f"{side[0]} has a prime factor above {largest}")
        parts.append((part, part))
        left //= part
    return parts
