"""Fuse the operators that HardSwish is exported as into HardSwish, one layer of MobileNetV3 for a compiler.

Factors may stand in any order, with Mul by 1/6 for Div by 6. Equal up to rounding. One limit: in some orders
x * Clip(..) is computed first, which overflows at a sixth of the largest number of the type, where HardSwish does not.

It does not fire when
1. the operator set is below 14, which has no HardSwish
2. a tensor inside is read by another node too, or is a graph output
3. HardSigmoid has other attributes than these: its default alpha is 0.2. Other numbers around a Clip are no match
4. the elements are neither float32 nor float16 (ONNX Runtime has no other HardSwish), or nothing tells their type
5. a constant of more dimensions than x may add some to the result
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.activations import is_torch_hard_sigmoid
from graphsurgery.operators.pattern import Pattern
from graphsurgery.rewrite import Editor, NodePass, Refuse


class FuseHardswish(NodePass):
    name = "fuse-hardswish"
    effect = "exact"
    pattern = Pattern(
        "x * HardSigmoid(x, alpha=1/6, beta=1/2)     ->  HardSwish(x)",
        "x * Clip(x + 3, 0, 6) / 6                   ->  HardSwish(x)",
    )
    matches = pattern.matches

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        match = self.pattern.nearest(node, edit)
        if match is None:
            return
        if not match.close:
            if node.op == "HardSigmoid" and not is_torch_hard_sigmoid(node):
                alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
                raise Refuse(f"its HardSigmoid has alpha {alpha:g} and beta {beta:g}, HardSwish has 1/6 and 1/2")
            return
        match.require_opset()
        match.require_private()
        match.require_type("x", types=["float32", "float16"])
        match.require_rank("x")
        match.replace()
