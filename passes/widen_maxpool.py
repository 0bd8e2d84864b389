"""Give a 1x1 MaxPool a wider window, for accelerators that refuse a kernel of one.

    MaxPool(kernel 1x1, strides s, pads 0)  ->  MaxPool(kernel 3x3, strides s, pads 1)

The output keeps its size, but its elements become the maximum of their neighbourhood: approximate. On the last
level of a torchvision FPN (stride 2) about 12% of the elements stay what they were. `replace-unit-maxpool` does the
same job exactly, where the accelerator takes a depthwise Conv or an AveragePool.

It does not fire when
1. the kernel is wider than 1x1 already
2. the window is not two-dimensional
3. the MaxPool pads, dilates or rounds up (auto_pad, pads, dilations, ceil_mode), so that its output size would change
4. the indices of the maxima are read too
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.operators.windows import require_unit_pool
from graphsurgery.rewrite import Editor, NodePass


@dataclass(frozen=True)
class WidenMaxpool(NodePass):
    """`kernel` is the new window's height and width, an odd number above 1."""

    name = "widen-maxpool"
    effect = "approximate"
    matches = ("MaxPool",)

    kernel: int = 3

    def __post_init__(self) -> None:
        if self.kernel < 3 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be an odd number from 3 up, not {self.kernel}")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        require_unit_pool(node, edit)
        attrs = {name: value for name, value in node.attrs.items() if name != "auto_pad"}
        attrs |= {"kernel_shape": [self.kernel] * 2, "pads": [self.kernel // 2] * 4}
        edit.replace(node, "MaxPool", list(node.inputs), attrs)
