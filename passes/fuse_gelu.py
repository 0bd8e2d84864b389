"""Fuse the operators that GELU is exported as below operator set 20 into Gelu.

Any order of the sums and products will do, multiplied out or not, with Div for Mul and Pow for x * x: both sides are
compared as polynomials. A compiler that has Gelu looks it up in one table; of its parts it knows the products, and
often hands Erf to the CPU. One limit: where x * (1 + Erf) is computed before it is halved, it overflows above half the
largest number of the type, and Gelu does not.

It does not fire when
1. the operator set is below 20, which has no Gelu
2. the elements are no floating-point numbers, or nothing tells
3. a constant is not GELU's to the precision of its type, such as 0.7978 for sqrt(2 / pi)
4. a tensor inside is read by another node too, or is a graph output
5. a constant of more dimensions than x adds some to the result
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.operators.pattern import Pattern
from graphsurgery.rewrite import Editor, NodePass


class FuseGelu(NodePass):
    name = "fuse-gelu"
    effect = "exact"
    pattern = Pattern(
        "0.5 * x * (1 + Erf(x / sqrt(2)))                                ->  Gelu(x, approximate='none')",
        "0.5 * x * (1 + Tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))    ->  Gelu(x, approximate='tanh')",
    )
    matches = pattern.matches

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        match = self.pattern.nearest(node, edit)
        if match is None:
            return
        match.require_opset()
        match.require_type("x")
        match.require_constants("GELU's")
        match.require_private()
        match.require_rank("x")
        match.replace()
