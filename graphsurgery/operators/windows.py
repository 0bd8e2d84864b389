"""The window of a Conv or a pool with every default written out, `auto_pad` resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, is_op


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
            if isinstance(size, int):
                total = (-(-size // strides[axis]) - 1) * strides[axis] + span - size
                if total < 0:
                    return None
            elif span == strides[axis] == 1:
                total = 0
            else:
                return None
            less, more = total // 2, total - total // 2
            begins[axis], ends[axis] = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
    elif auto_pad != "NOTSET":
        return None
    return Window(
        tuple(map(int, kernel)), tuple(map(int, strides)), tuple(map(int, dilations)), tuple(begins), tuple(ends)
    )
