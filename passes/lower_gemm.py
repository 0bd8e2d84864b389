"""Unfold Gemm into MatMul and Add, for runtimes and compilers whose kernel library has the plain product only.

    Gemm(a, b, c)                   ->  Add(MatMul(a, b), c)
    Gemm(a, b)                      ->  MatMul(a, b)
    transA, transB                  ->  a transposed constant, or a Transpose before the MatMul
    alpha                           ->  multiplied into b or a if constant, else Mul behind the MatMul
    beta                            ->  multiplied into c if constant, else Mul before the Add; no Add if it is 0

`fuse-gemm` is the way back.

It does not fire when
1. the operator set is below 7, whose Add does not broadcast by itself
2. alpha is 0, so that the product counts for nothing
3. alpha or beta has to be multiplied in and the elements are no floating-point numbers, or nothing tells their type
4. alpha or beta can't be written as a number of that type (1e-9 in float16)
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant
from graphsurgery.operators.operands import optional, scaled
from graphsurgery.operators.requirements import require_dtype
from graphsurgery.operators.slices import Link, chain
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerGemm(NodePass):
    name = "lower-gemm"
    effect = "exact"
    matches = ("Gemm",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        alpha, beta = float(attribute(node, "alpha", 1.0)), float(attribute(node, "beta", 1.0))
        a, b, out = node.inputs[0], node.inputs[1], node.outputs[0]
        c = optional(node, 2) if beta != 0 else None
        if edit.opset < 7:
            raise Refuse("the operator set is below 7, whose Add does not broadcast by itself")
        if alpha == 0:
            raise Refuse("alpha is 0, so that the product counts for nothing")
        factors = {factor for factor in (alpha, 1.0 if c is None else beta) if factor != 1}
        typed = next((tensor for tensor in (b, a) if edit.dtype(tensor) is not None), out)
        dtype = require_dtype(typed, edit, where=", and alpha or beta is not 1") if factors else None
        if any(scaled(np.ones((), dtype), factor) is None for factor in factors):
            raise Refuse(f"alpha or beta is too small or too large for {dtype}")

        b, alpha = _operand(b, bool(attribute(node, "transB", 0)), alpha, f"{out.name}_b", edit)
        a, alpha = _operand(a, bool(attribute(node, "transA", 0)), alpha, f"{out.name}_a", edit)
        links = [Link("MatMul", (b,), hint="product")]
        if alpha != 1:
            links.append(Link("Mul", (edit.constant(f"{out.name}_alpha", np.asarray(alpha, dtype)),), hint="scaled"))
        if c is not None:
            c, beta = _operand(c, False, beta, f"{out.name}_c", edit)
            if beta != 1:
                factor = edit.constant(f"{out.name}_beta", np.asarray(beta, dtype))
                c = edit.emit("Mul", [c, factor], hint=f"{out.name}_scaled_c")
            links.append(Link("Add", (c,)))
        chain(edit, node, a, links)


def _operand(tensor: gs.Tensor, transpose: bool, factor: float, hint: str, edit: Editor) -> tuple[gs.Tensor, float]:
    """Return `tensor`, transposed and multiplied where that can be done now, and the factor that is left."""
    values = constant(tensor)
    if values is not None and values.dtype.kind in "fiu":
        turned = values.T if transpose else values
        folded = scaled(turned, factor)
        left, result = (factor, turned) if folded is None else (1.0, folded)
        return (tensor if result is values else edit.constant(hint, result)), left
    if transpose:
        tensor = edit.emit("Transpose", [tensor], {"perm": [1, 0]}, hint=hint)
    return tensor, factor
