"""Turn a Slice that takes every n-th element into Reshape and a Slice of step 1, for accelerators without steps.

    x [N, C, 8, W], step 2 from 1 along axis 2   ->  Reshape [N, C, 4, 2*W], Slice [.., W:2*W]
    x [N, C, H, 8], step 2 from 1 along axis 3   ->  Reshape [N, C, H*4, 2], Slice [.., 1:2], Reshape [N, C, H, 4]

Arm's Vela, for one, leaves a StridedSlice to the CPU whose strides are not all 1 (its supported_operators.py), and so
did OpenCV's importer (opencv issue 18920). The step becomes part of the next axis, or the last axis part of the one
before it, so the rank never grows: many compilers end at four axes (TIM-VX issue 213). Only where the last axis has
none of known size before it, it becomes two.

An axis whose size is no multiple of the step is cropped, or else padded with zeros that nothing takes. All axes with
step 1, and all crops, go into one Slice before that. At most one element along an axis needs no step at all.

It does not fire when
1. all steps are 1
2. its bounds, axes or steps are computed, or a caller may override them
3. a step is negative
4. the rank is not known, or an axis is out of range or stands twice
5. the size of an axis with a step is not known
6. the size of the axis behind that is not known
7. padding is needed and Pad does not take the type of the elements in this operator set
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.operators.axes import Bounds, bounds, integers, normalised
from graphsurgery.operators.slices import TO_THE_END, Link, chain, picked, reshaping, sizes, slicing
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class LowerStridedSlice(NodePass):
    name = "lower-strided-slice"
    effect = "exact"
    matches = ("Slice",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        steps = integers(node, "steps", 4)
        if steps is not None and set(steps) <= {1}:
            return
        taken = bounds(node)
        if taken is None:
            raise Refuse("its bounds are not constant")
        if any(each.step < 1 for each in taken):
            raise Refuse("a step is negative")
        data = node.inputs[0]
        shape = sizes(edit, data)
        axes = None if shape is None else normalised([each.axis for each in taken], len(shape))
        if shape is None or axes is None:
            raise Refuse("the rank of its input is not known, or its axes are not right for it")
        plan = _Plan(shape)
        for axis, each in sorted(zip(axes, taken, strict=True), key=lambda pair: pair[0]):
            if each.step > 1 and plan.sizes[axis] is None:
                raise Refuse(f"the size of axis {axis}, which it takes in steps, is not known")
            plan.take(Bounds(axis, each.start, each.end, each.step))
        for stride in plan.strides:
            if stride.axis + 1 < len(shape) and plan.sizes[stride.axis + 1] is None:
                raise Refuse(f"the size of axis {stride.axis + 1}, behind one with a step, is not known")
        if any(plan.pads) and not _pads(data, edit):
            raise Refuse(f"padding is needed, and Pad does not take {edit.dtype(data) or 'its type'} here")
        chain(edit, node, data, plan.links(edit, node.outputs[0].name))


@dataclass(frozen=True)
class _Stride:
    """Take element `phase` of each of `count` groups of `step`."""

    axis: int
    step: int
    phase: int
    count: int


class _Plan:
    """What the Slice becomes: crops, then pads, then a change of shape for each stride. `sizes` is what they leave."""

    def __init__(self, shape: Sequence[int | None]) -> None:
        self.sizes = list(shape)
        self.crops: list[Bounds] = []
        self.pads = [0] * len(shape)
        self.strides: list[_Stride] = []

    def take(self, taken: Bounds) -> None:
        size = self.sizes[taken.axis]
        if size is None:
            self.crops.append(taken)
            return
        elements = picked(taken, size)
        count, step = len(elements), taken.step
        if step == 1 or count <= 1:
            start = elements[0] if count else 0
            self._crop(taken.axis, start, start + count)
            return
        # The groups begin before the first element where they would reach beyond the end otherwise.
        phase = min(elements[0], max(0, elements[0] + count * step - size))
        begin = elements[0] - phase
        end = begin + count * step
        self._crop(taken.axis, begin, min(end, size))
        self.pads[taken.axis] = max(0, end - size)
        self.sizes[taken.axis] = count * step
        self.strides.append(_Stride(taken.axis, step, phase, count))

    def _crop(self, axis: int, start: int, end: int) -> None:
        if (start, end) != (0, self.sizes[axis]):
            self.crops.append(Bounds(axis, start, end, 1))
        self.sizes[axis] = end - start

    def links(self, edit: Editor, hint: str) -> list[Link]:
        links = [slicing(edit, hint, self.crops)] if self.crops else []
        if any(self.pads):
            links.append(_padding(edit, hint, [0] * len(self.pads) + self.pads))
        for stride in self.strides:
            last = stride.axis == len(self.sizes) - 1
            links += self._last_axis(edit, hint, stride) if last else self._inner_axis(edit, hint, stride)
        if not links:  # it took everything, though in steps: of an axis of size 1, or of none
            links.append(slicing(edit, hint, [Bounds(0, 0, TO_THE_END, 1)]))
        return links

    def _inner_axis(self, edit: Editor, hint: str, stride: _Stride) -> list[Link]:
        behind = self.sizes[stride.axis + 1] or 0
        self.sizes[stride.axis] = stride.count
        grouped = [*self.sizes]
        grouped[stride.axis + 1] = stride.step * behind
        part = Bounds(stride.axis + 1, stride.phase * behind, (stride.phase + 1) * behind, 1)
        return [reshaping(edit, hint, _written(grouped)), slicing(edit, hint, [part])]

    def _last_axis(self, edit: Editor, hint: str, stride: _Stride) -> list[Link]:
        *front, _ = self.sizes
        self.sizes[stride.axis] = stride.count
        if front and front[-1] is not None:
            grouped = [*front[:-1], front[-1] * stride.count, stride.step]
        else:
            grouped = [*front, stride.count, stride.step]
        part = Bounds(len(grouped) - 1, stride.phase, stride.phase + 1, 1)
        return [
            reshaping(edit, hint, _written(grouped)),
            slicing(edit, hint, [part]),
            reshaping(edit, hint, _written(self.sizes)),
        ]


def _written(shape: Sequence[int | None]) -> list[int]:
    """Return the sizes for a Reshape: what is not known is copied from the same axis, as is a size of 0."""
    return [size or 0 for size in shape]


def _padding(edit: Editor, hint: str, pads: Sequence[int]) -> Link:
    if edit.opset < 11:
        return Link("Pad", (), {"pads": list(pads)})
    return Link("Pad", (edit.constant(f"{hint}_pads", list(pads)),))


def _pads(data: gs.Tensor, edit: Editor) -> bool:
    dtype = edit.dtype(data)
    kinds = "f" if edit.opset < 11 else "fiu" if edit.opset < 13 else "fiub"
    return dtype is not None and dtype.kind in kinds
