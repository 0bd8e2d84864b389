"""Lower HardSwish (operator set 14) to HardSigmoid and Mul, for compilers that lack it or want the parts.

    HardSwish(x)  ->  x * HardSigmoid(x, alpha=1/6, beta=1/2)

That is the body which the specification gives for HardSwish, so the result is equal up to rounding. `fuse-hardswish`
goes the other way.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.operators.activations import ALPHA, BETA
from graphsurgery.rewrite import Editor, NodePass


class LowerHardswish(NodePass):
    name = "lower-hardswish"
    effect = "exact"
    matches = ("HardSwish",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        x = node.inputs[0]
        gate = edit.emit("HardSigmoid", [x], {"alpha": ALPHA, "beta": BETA}, hint=f"{node.outputs[0].name}_gate")
        edit.replace(node, "Mul", [x, gate])
