"""Widen an even kernel of a Conv to the next odd size with zeros, for accelerators that have odd kernels only.

    Conv(kernel 2x2, pads p)  ->  Conv(kernel 3x3, its last row and column 0, pads p + 1 at the end)

TIDL, for one, lists depthwise kernels of 3x3, 5x5 and 7x7. Both sums are of the same numbers. The pads become
asymmetric; `split-large-pad symmetric=true` puts what is too many into a Pad.

One limit: 0 x Inf is NaN, so an Inf or NaN spoils what stands before it too (and -0 may become +0).

It does not fire when
1. all sizes of its kernel are odd, or 1
2. its weights are computed, or a caller may override them
3. its auto_pad depends on a size that is not known
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.operators.channels import require_weights
from graphsurgery.operators.windows import require_window
from graphsurgery.rewrite import Editor, NodePass


class WidenEvenConv(NodePass):
    name = "widen-even-conv"
    effect = "exact"
    matches = ("Conv",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        own = require_window(node, edit)
        more = [1 - size % 2 for size in own.kernel]
        if not any(more):
            return
        weights = require_weights(node)
        wider = np.pad(weights, [(0, 0), (0, 0), *((0, added) for added in more)])
        ends = [end + added * apart for end, added, apart in zip(own.ends, more, own.dilations, strict=True)]
        attrs = {key: value for key, value in node.attrs.items() if key != "auto_pad"}
        attrs |= {"kernel_shape": list(wider.shape[2:]), "pads": [*own.begins, *ends]}
        held = edit.constant(f"{node.inputs[1].name}_odd", wider)
        edit.replace(node, "Conv", [node.inputs[0], held, *node.inputs[2:]], attrs)
