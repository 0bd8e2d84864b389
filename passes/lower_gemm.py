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

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant
from graphsurgery.operators.operands import FLOATS, scaled
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class LowerGemm(NodePass):
    """It has no options."""

    name = "lower-gemm"
    effect = "exact"
    matches = ("Gemm",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        alpha, beta = float(attribute(node, "alpha", 1.0)), float(attribute(node, "beta", 1.0))
        a, b, out = node.inputs[0], node.inputs[1], node.outputs[0]
        c = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name and beta != 0 else None
        if edit.opset < 7:
            raise Refuse("the operator set is below 7, whose Add does not broadcast by itself")
        if alpha == 0:
            raise Refuse("alpha is 0, so that the product counts for nothing")
        factors = {factor for factor in (alpha, 1.0 if c is None else beta) if factor != 1}
        dtype = (edit.dtype(b) or edit.dtype(a) or edit.dtype(out)) if factors else None
        if factors and (dtype is None or dtype.name not in FLOATS):
            kind = "of unknown type" if dtype is None else dtype.name
            raise Refuse(f"its elements are {kind}, and alpha or beta is not 1")
        if any(scaled(np.ones((), dtype), factor) is None for factor in factors):
            raise Refuse(f"alpha or beta is too small or too large for {dtype}")

        hint = out.name
        b, alpha = _operand(b, bool(attribute(node, "transB", 0)), alpha, f"{hint}_b", edit)
        a, alpha = _operand(a, bool(attribute(node, "transA", 0)), alpha, f"{hint}_a", edit)
        if c is not None:
            c, beta = _operand(c, False, beta, f"{hint}_c", edit)
            if beta != 1:
                factor = edit.constant(f"{hint}_beta", np.asarray(beta, dtype))
                c = edit.emit("Mul", [c, factor], hint=f"{hint}_scaled_c", dtype=c.dtype, shape=c.shape)
        product = (a, b)
        if alpha != 1:
            factor = edit.constant(f"{hint}_alpha", np.asarray(alpha, dtype))
            matmul = edit.emit("MatMul", product, hint=f"{hint}_product", dtype=out.dtype, shape=out.shape)
            if c is None:
                return edit.replace(node, "Mul", [matmul, factor])
            term = edit.emit("Mul", [matmul, factor], hint=f"{hint}_scaled", dtype=out.dtype, shape=out.shape)
        elif c is None:
            return edit.replace(node, "MatMul", product)
        else:
            term = edit.emit("MatMul", product, hint=f"{hint}_product", dtype=out.dtype, shape=out.shape)
        edit.replace(node, "Add", [term, c])


def _operand(tensor: gs.Tensor, transpose: bool, factor: float, hint: str, edit: Editor) -> tuple[gs.Tensor, float]:
    """Return `tensor`, transposed and multiplied where that can be done now, and the factor that is left."""
    values = constant(tensor)
    if values is not None and values.dtype.kind in "fiu":
        turned = values.T if transpose else values
        folded = scaled(turned, factor)
        left, result = (factor, turned) if folded is None else (1.0, folded)
        return (tensor if result is values else edit.constant(hint, result)), left
    if transpose:
        shape = None if tensor.shape is None else list(tensor.shape)[::-1]
        tensor = edit.emit("Transpose", [tensor], {"perm": [1, 0]}, hint=hint, dtype=tensor.dtype, shape=shape)
    return tensor, factor
