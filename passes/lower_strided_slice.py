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

from graphsurgery.operators.axes import Bounds, bounds, integers
from graphsurgery.operators.requirements import require_axes, require_shape
from graphsurgery.operators.slices import TO_THE_END, Link, chain, padding, picked, reshaping, slicing
from graphsurgery.rewrite import Editor, NodePass, Refuse


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
        shape = require_shape(data, edit)
        axes = require_axes([each.axis for each in taken], len(shape))
        plan = _Plan(shape)
        for axis, each in sorted(zip(axes, taken, strict=True), key=lambda pair: pair[0]):
            if each.step > 1 and plan.sizes[axis] is None:
                raise Refuse(f"the size of axis {axis}, which it takes in steps, is not known")
            plan.take(Bounds(axis, each.start, each.end, each.step))
        for stride in plan.strides:
            if stride.axis + 1 < len(shape) and plan.sizes[stride.axis + 1] is None:
                raise Refuse(f"the size of axis {stride.axis + 1}, behind one with a step, is not known")
        dtype, kinds = edit.dtype(data), "f" if edit.opset < 11 else "fiu" if edit.opset < 13 else "fiub"
        if any(plan.pads) and (dtype is None or dtype.kind not in kinds):
            raise Refuse(f"padding is needed, and Pad does not take {dtype or 'its type'} here")
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
            links.append(padding(edit, hint, [0] * len(self.pads) + self.pads))
        for stride in self.strides:
            links += self._take_one_of_each_group(edit, hint, stride)
        if not links:  # it took everything, though in steps: of an axis of size 1, or of none
            links.append(slicing(edit, hint, [Bounds(0, 0, TO_THE_END, 1)]))
        return links

    def _take_one_of_each_group(self, edit: Editor, hint: str, stride: _Stride) -> list[Link]:
        axis, last = stride.axis, stride.axis == len(self.sizes) - 1
        grouped = [*self.sizes, 1] if last else [*self.sizes]
        behind = grouped[axis + 1] or 0
        grouped[axis : axis + 2] = [stride.count, stride.step * behind]
        before = grouped[axis - 1] if last and axis else None
        if before is not None:
            grouped[axis - 1 : axis + 1] = [before * stride.count]
        self.sizes[axis] = stride.count
        part = Bounds(len(grouped) - 1 if last else axis + 1, stride.phase * behind, (stride.phase + 1) * behind, 1)
        links = [reshaping(edit, hint, grouped), slicing(edit, hint, [part])]
        return [*links, reshaping(edit, hint, self.sizes)] if last else links
