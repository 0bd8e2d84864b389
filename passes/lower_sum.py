"""Lower Sum, of any number of tensors, to Add, which every accelerator has.

    Sum(a, b)     ->  Add(a, b)
    Sum(a, b, c)  ->  Add(Add(a, b), c)
    Sum(a)        ->  a

ONNX Runtime adds in this order too and rounds after each step, so the results are the same bits, smaller tensors that
are broadcast and float16 included (measured with 1.31, up to nine tensors). Another runtime may keep more digits
between its steps.

It does not fire when
1. the operator set is below 7, where Add doesn't broadcast by itself and ONNX Runtime has none
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.operators.requirements import require_broadcasting
from graphsurgery.rewrite import Editor, NodePass


class LowerSum(NodePass):
    name = "lower-sum"
    effect = "exact"
    matches = ("Sum",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        require_broadcasting(edit)
        if len(node.inputs) == 1:
            edit.bypass(node, node.inputs[0])
            return
        total, *between, last = node.inputs
        for term in between:
            total = edit.emit("Add", [total, term], hint=f"{node.outputs[0].name}_partial")
        edit.replace(node, "Add", [total, last])
