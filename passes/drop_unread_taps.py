"""Drop rows and columns of a kernel that read nothing but padding, for accelerators whose pads or kernels are small.

    Conv(3x3, dilations 24, pads 24) of 20x20  ->  Conv(1x1)
    Conv(3x3, dilations 12, pads 12) of 20x20  ->  the same, as each tap reads something
    Conv(5x5, pads 2) of 1x1                   ->  Conv(1x1)

The atrous pyramids of DeepLab have such layers where the image is smaller than they were made for. What is dropped
multiplied zeros, so the sums are of the same numbers.

It does not fire when
1. each row and column of the kernel reads an element somewhere, or none does
2. the size of its input is not known
3. its weights are computed, or a caller may override them
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.operators.channels import require_weights
from graphsurgery.operators.requirements import require_shape
from graphsurgery.operators.windows import Window, require_window
from graphsurgery.rewrite import Editor, NodePass, Refuse


class DropUnreadTaps(NodePass):
    name = "drop-unread-taps"
    effect = "exact"
    matches = ("Conv",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        own = require_window(node, edit)
        if not own.padded:
            return
        spatial = require_shape(node.inputs[0], edit)[2:]
        kept = [_read(own, axis, size) for axis, size in enumerate(spatial)]
        if all(len(taps) == size for taps, size in zip(kept, own.kernel, strict=True)):
            return
        weights = require_weights(node)
        for axis, taps in enumerate(kept, start=2):
            weights = weights.take(taps, axis)
        lost = [(taps.start, size - taps.stop) for taps, size in zip(kept, own.kernel, strict=True)]
        begins = [begin - first * d for begin, (first, _), d in zip(own.begins, lost, own.dilations, strict=True)]
        ends = [end - last * d for end, (_, last), d in zip(own.ends, lost, own.dilations, strict=True)]
        attrs = {key: value for key, value in node.attrs.items() if key != "auto_pad"}
        # of one tap a dilation says nothing, and a compiler may refuse a large one
        apart = [1 if len(taps) == 1 else d for taps, d in zip(kept, own.dilations, strict=True)]
        attrs |= {"kernel_shape": list(weights.shape[2:]), "pads": [*begins, *ends], "dilations": apart}
        held = edit.constant(f"{node.inputs[1].name}_read", weights)
        edit.replace(node, "Conv", [node.inputs[0], held, *node.inputs[2:]], attrs)


def _read(own: Window, axis: int, size: int | None) -> range:
    """Return the taps along an axis to keep: from the first to the last that read an element of `size`.

    No more are dropped than the pads have room for.
    """
    taps, step, apart = own.kernel[axis], own.strides[axis], own.dilations[axis]
    before, behind = own.begins[axis], own.ends[axis]
    if not size:
        raise Refuse("the size of its input is not known, or 0")
    places = (size + before + behind - own.spans[axis]) // step + 1
    starts = range(-before, -before + places * step, step)
    reading = [tap for tap in range(taps) if any(0 <= start + tap * apart < size for start in starts)]
    if not reading:
        raise Refuse("none of its taps reads an element")
    first, last = min(reading[0], before // apart), min(taps - 1 - reading[-1], behind // apart)
    return range(first, taps - last)
