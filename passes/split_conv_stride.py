"""Split the stride of a Conv between it and MaxPools of one element, for accelerators with small strides only.

    Conv(strides 4)            ->  Conv(strides 2)  ->  MaxPool(1x1, strides 2)
    Conv(strides 4), conv: 1   ->  Conv(strides 1)  ->  MaxPool(1x1, strides 2)  ->  MaxPool(1x1, strides 2)

What is left are the elements that it wrote before, equal to rounding: ONNX Runtime sums a larger image in other blocks.
The Conv computes more of them, as many times as its stride shrinks along each axis, so `conv` is best the largest that
the accelerator takes: TIDL wants stride 1 of a kernel above 7, Ethos-U55 at most 3.

One limit: ONNX leaves open what a MaxPool makes of NaN.

It does not fire when
1. no stride is above `conv`
2. a stride has a prime factor that neither the Conv nor a MaxPool may have
3. its window is not known, or its auto_pad depends on a size that is not
4. it has more than three spatial axes, or nothing tells that its elements are floating-point numbers
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

import onnx_graphsurgeon as gs

from graphsurgery.operators.requirements import require_dtype
from graphsurgery.operators.windows import require_window, windowing
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class SplitConvStride(NodePass):
    """`conv` and `pool` are the largest strides that a Conv and a MaxPool may have."""

    name = "split-conv-stride"
    effect = "exact"
    matches = ("Conv",)

    conv: int = 2
    pool: int = 2

    def __post_init__(self) -> None:
        if self.conv < 1 or self.pool < 2:
            raise ValueError(f"conv must be 1 or more and pool 2 or more, not {self.conv} and {self.pool}")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        own = require_window(node, edit)
        if max(own.strides) <= self.conv:
            return
        if len(own.kernel) > 3:
            raise Refuse(f"it has {len(own.kernel)} spatial axes, and a MaxPool at most 3")
        require_dtype(node.inputs[0], edit)
        kept = [_largest_factor(stride, self.conv) for stride in own.strides]
        pools = [self._factors(stride // left) for stride, left in zip(own.strides, kept, strict=True)]
        attrs = {key: value for key, value in node.attrs.items() if key != "auto_pad"}
        attrs |= {"strides": kept, "pads": own.pads}
        hint = node.outputs[0].name
        data = edit.emit("Conv", list(node.inputs), attrs, hint=f"{hint}_dense")
        *inner, last = [list(strides) for strides in zip_longest(*pools, fillvalue=1)]
        for strides in inner:
            data = edit.emit("MaxPool", [data], windowing([1] * len(strides), strides), hint=f"{hint}_sparser")
        edit.replace(node, "MaxPool", [data], windowing([1] * len(last), last))

    def _factors(self, stride: int) -> list[int]:
        """Return strides of MaxPools whose product is `stride`, the largest first."""
        found = []
        while stride > 1:
            factor = _largest_factor(stride, self.pool)
            if factor == 1:
                raise Refuse(f"a stride has the factor {stride}, which no MaxPool of stride {self.pool} or less makes")
            found.append(factor)
            stride //= factor
        return found


def _largest_factor(number: int, most: int) -> int:
    return max(factor for factor in range(1, min(number, most) + 1) if number % factor == 0)
