"""Split a Conv of several groups into one Conv for each, for accelerators that take none (or depthwise ones alone).

    Conv(x, w, group g)  ->  Concat(Conv(Slice(x, group 0), w0), ..., Conv(Slice(x, group g-1), w_g-1))

Each group reads its own channels and sums in the order that it did. A depthwise Conv, a group for each channel, is left
alone: nearly all accelerators have that, and none wants hundreds of Convs in its place.

It does not fire when
1. its groups are as many as the channels that it reads
2. its weights or its bias are computed, or a caller may override them
3. it has more groups than `most`
4. its groups don't divide the channels that it writes
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.axes import Bounds
from graphsurgery.operators.channels import require_bias, require_weights
from graphsurgery.operators.slices import slicing
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class SplitGroupedConv(NodePass):
    """`most` is the largest number of groups that is split, as many Convs are made of it."""

    name = "split-grouped-conv"
    effect = "exact"
    matches = ("Conv",)

    most: int = 64

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        groups = int(attribute(node, "group", 1))
        if groups == 1:
            return
        weights, bias = require_weights(node), require_bias(node)
        written, read = weights.shape[0], weights.shape[1]  # of all groups, and of one
        if read == 1:
            raise Refuse("it is depthwise: a group for each channel")
        if groups > self.most:
            raise Refuse(f"it has {groups} groups, more than {self.most}")
        if written % groups:
            raise Refuse(f"its {groups} groups don't divide the {written} channels that it writes")
        name, attrs = node.outputs[0].name, {**node.attrs, "group": 1}
        own = [np.split(values, groups) for values in (weights, *(() if bias is None else (bias,)))]
        parts = []
        for group, values in enumerate(zip(*own, strict=True)):
            link = slicing(edit, f"{name}_{group}", [Bounds(1, group * read, (group + 1) * read, 1)])
            taken = edit.emit(link.op, [node.inputs[0], *link.parameters], link.attrs, hint=f"{name}_read_{group}")
            held = [edit.constant(f"{name}_{what}_{group}", v) for what, v in zip(("w", "b"), values, strict=False)]
            parts.append(edit.emit("Conv", [taken, *held], attrs, hint=f"{name}_group_{group}"))
        edit.replace(node, "Concat", parts, {"axis": 1})
