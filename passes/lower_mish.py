"""Lower Mish (operator set 18) to Softplus, Tanh and Mul, for compilers that have none.

    Mish(x)  ->  x * Tanh(Softplus(x))

That is the body which the specification gives for Mish, so the result is equal up to rounding.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.rewrite import Editor, NodePass


class LowerMish(NodePass):
    name = "lower-mish"
    effect = "exact"
    matches = ("Mish",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        x, name = node.inputs[0], node.outputs[0].name
        gate = edit.emit("Tanh", [edit.emit("Softplus", [x], hint=f"{name}_softplus")], hint=f"{name}_gate")
        edit.replace(node, "Mul", [x, gate])
