"""Put the pads of a Conv that are more than an accelerator takes into a Pad in front of it.

    Conv(pads 24)                               ->  Pad(9)  ->  Conv(pads 15)
    with symmetric: true, Conv(pads 1 and 2)    ->  Pad(0 and 1)  ->  Conv(pads 1 and 1)

An AveragePool that counts what it pads, the same. Rockchip's Convs pad up to 15, and Axelera's pools alike on both
sides. The Pad writes the zeros that were read outside before, so the results are the same bits. `merge-pads` does the
reverse.

It does not fire when
1. no pad is above `most`, nor, with `symmetric`, unlike that on the other side
2. its window is not known, or its auto_pad depends on a size that is not
3. a pool doesn't count what it pads, or rounds up
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, is_op
from graphsurgery.operators.requirements import require_dtype
from graphsurgery.operators.slices import padding
from graphsurgery.operators.windows import require_window
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class SplitLargePad(NodePass):
    """`most` is the largest pad that a layer may have; with `symmetric` both sides of an axis must be padded alike."""

    name = "split-large-pad"
    effect = "exact"
    matches = ("Conv", "AveragePool")

    most: int = 15
    symmetric: bool = False

    def __post_init__(self) -> None:
        if self.most < 0:
            raise ValueError(f"most must be 0 or more, not {self.most}")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        own = require_window(node, edit)
        sides = [list(own.begins), list(own.ends)]
        kept = [[min(pad, self.most) for pad in side] for side in sides]
        if self.symmetric:
            kept = [[min(pair) for pair in zip(*kept, strict=True)]] * 2
        if kept == sides:
            return
        pool = is_op(node, "AveragePool")
        if pool and (not attribute(node, "count_include_pad", 0) or attribute(node, "ceil_mode", 0)):
            raise Refuse("it doesn't count what it pads, or rounds up")
        dtype, hint = require_dtype(node.inputs[0], edit), node.outputs[0].name
        begins, ends = ([a - b for a, b in zip(*both, strict=True)] for both in zip(sides, kept, strict=True))
        value = None if dtype == np.float32 else np.zeros((), dtype)
        link = padding(edit, hint, [0, 0, *begins, 0, 0, *ends], value)
        padded = edit.emit("Pad", [node.inputs[0], *link.parameters], link.attrs, hint=f"{hint}_padded")
        attrs = {key: held for key, held in node.attrs.items() if key != "auto_pad"} | {"pads": [*kept[0], *kept[1]]}
        edit.replace(node, node.op, [padded, *node.inputs[1:]], attrs)
