"""The window of a Conv or a pool: with every default written out, `auto_pad` resolved, or as a new node has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, consumers, is_op
from graphsurgery.operators.axes import integers
from graphsurgery.operators.requirements import require_unread
from graphsurgery.rewrite import Editor, Refuse


@dataclass(frozen=True)
class Window:
    """Sizes along the spatial axes; `begins` and `ends` are the pads before and behind."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def pads(self) -> list[int]:
        """The pads as ONNX writes them: all begins, then all ends."""
        return [*self.begins, *self.ends]

    @property
    def padded(self) -> bool:
        """Whether it reads anything outside its input."""
        return any(self.pads)

    @property
    def spans(self) -> tuple[int, ...]:
        """How far the window reaches, dilation included."""
        return tuple((size - 1) * dilation + 1 for size, dilation in zip(self.kernel, self.dilations, strict=True))


def same_pads(size: int | str | None, stride: int, span: int) -> tuple[int, int] | None:
    """Return the pads of SAME_UPPER at both ends of an axis, None where its size isn't known or the stride leaves gaps.

    Formula: the specification of Conv, which is that of SAME in TensorFlow.
    """
    if isinstance(size, int):
        total = (-(-size // stride) - 1) * stride + span - size
    elif span == stride == 1:
        total = 0
    else:
        return None
    return None if total < 0 else (total // 2, total - total // 2)


def window(node: gs.Node, kernel: Sequence[int], spatial: Sequence[int | str | None] | None) -> Window | None:
    """Return the window of a Conv or a pool whose kernel is `kernel`, over an input of the size `spatial`.

    None where the pads depend on a size that is not known (`auto_pad: SAME_UPPER`, `SAME_LOWER`), where onnxruntime
    reads that otherwise than the specification (a pool with dilations, a stride that leaves gaps), and where the
    attributes contradict each other. Formula: the specification of Conv and MaxPool.
    """
    rank = len(kernel)
    ones = [1] * rank
    strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
    pads = attribute(node, "pads", [0] * 2 * rank)
    auto_pad = attribute(node, "auto_pad", "NOTSET")
    if not len(strides) == len(dilations) == rank or len(pads) != 2 * rank:
        return None
    begins, ends = [int(pad) for pad in pads[:rank]], [int(pad) for pad in pads[rank:]]
    if auto_pad == "VALID":
        begins, ends = [0] * rank, [0] * rank
    elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        if spatial is None or len(spatial) != rank:
            return None
        for axis, size in enumerate(spatial):
            span = (kernel[axis] - 1) * dilations[axis] + 1
            if dilations[axis] != 1 and not is_op(node, "Conv"):
                return None
            same = same_pads(size, strides[axis], span)
            if same is None:
                return None
            less, more = same
            begins[axis], ends[axis] = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
    elif auto_pad != "NOTSET":
        return None
    return Window(
        tuple(map(int, kernel)), tuple(map(int, strides)), tuple(map(int, dilations)), tuple(begins), tuple(ends)
    )


def window_of(node: gs.Node, edit: Editor) -> Window | None:
    """Return the window of a Conv or a pool as it stands in the graph; None as in `window`, or for want of a kernel."""
    kernel = attribute(node, "kernel_shape", None) or (edit.static_shape(node.inputs[1]) or ())[2:]
    shape = edit.shape(node.inputs[0]) if str(attribute(node, "auto_pad", "")).startswith("SAME") else None
    return window(node, kernel, None if shape is None else shape[2:]) if len(kernel) else None


def require_window(node: gs.Node, edit: Editor) -> Window:
    """Return the same window. Raises Refuse where it isn't known."""
    own = window_of(node, edit)
    if own is None:
        raise Refuse("its window is not known, or its auto_pad depends on a size that is not")
    return own


def is_of_a_layer(pad: gs.Node, edit: Editor) -> bool:
    """Whether a Pad stands for the pads of the layers behind it, which have none of their own, and not for a canvas.

    Such a one, TensorFlow's SAME padding of the stem of an EfficientDet, adds less than the kernel, which overlaps with
    the next one's place. Where it doesn't overlap, a patch is cut out of what may be a canvas.
    """
    readers, pads = consumers(pad.outputs[0]), integers(pad, "pads", 1)
    rank = len(edit.shape(pad.inputs[0]) or [])
    if pads is None or len(pads) != 2 * rank or edit.is_output(pad.outputs[0]) or not readers:
        return False
    added = [begin + end for begin, end in zip(pads[:rank], pads[rank:], strict=True)]
    for reader in readers:
        own = window_of(reader, edit) if is_op(reader, "Conv") and reader.inputs[0] is pad.outputs[0] else None
        if own is None or any(own.pads) or min(pads) < 0 or any(added[:2]) or len(added) != 2 + len(own.kernel):
            return False
        steps = zip(added[2:], own.spans, own.strides, strict=True)
        if any(more and not (more < size and step < size) for more, size, step in steps):
            return False
    return True


def windowing(
    kernel: Sequence[int], strides: Sequence[int] = (), pads: Sequence[int] = (), group: int | None = None
) -> dict[str, Any]:
    """Return the attributes of a pool, or of a Conv with that many groups, that reaches over `kernel`.

    All are written out: VitisAI aborts on a Conv that leaves one at its default.
    """
    ones = [1] * len(kernel)
    attrs = {"kernel_shape": [*kernel], "pads": [*pads] or [0, 0] * len(kernel), "strides": [*strides] or ones}
    return attrs if group is None else {"dilations": ones, "group": group} | attrs


def require_unit_pool(node: gs.Node, edit: Editor) -> None:
    """Demand that a MaxPool is plain subsampling over a window of one element in two dimensions, or raise Refuse."""
    kernel = attribute(node, "kernel_shape", [])
    if any(size != 1 for size in kernel):
        raise Refuse(f"the kernel is {'x'.join(map(str, kernel))}")
    if len(kernel) != 2:
        raise Refuse(f"the window has {len(kernel)} dimensions, not 2")
    padded = any(attribute(node, "pads", [])) or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if padded or attribute(node, "ceil_mode", 0) or any(d != 1 for d in attribute(node, "dilations", [])):
        raise Refuse("it pads, dilates or rounds up, so its output has another size than every s-th element")
    require_unread(node, edit, "the indices of the maxima are")
