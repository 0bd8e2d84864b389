"""Fuse MatMul and the Add behind it into one Gemm, a fully connected layer with its bias.

Accelerators have a unit for the whole layer and quantize it with one scale; a MatMul and an Add are two layers with
a tensor of products between them. `lower-gemm` is the way back.

It does not fire when
1. the product is read by another node too, or is a graph output
2. the MatMul stands outside the If or Loop body of the Add, which would compute it again in each round
3. the elements are no floating-point numbers, for which few runtimes have a Gemm, or nothing tells their type
4. a factor is no matrix, or nothing tells
5. nothing tells that c spreads over the product without making it larger
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.operators.pattern import Match, Pattern
from graphsurgery.rewrite import Editor, NodePass, Refuse


class FuseGemm(NodePass):
    name = "fuse-gemm"
    effect = "exact"
    pattern = Pattern("Add(MatMul(a, b), c)  ->  Gemm(a, b, c)")
    matches = pattern.matches

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if edit.opset < 7:
            return
        match = self.pattern.match(node, edit, check=lambda match: _check(match, edit))
        if match is not None:
            match.replace()


def _check(match: Match, edit: Editor) -> None:
    match.require_private("the product is read by another node too, or is a graph output")
    if not any(node is match.nodes[0] for node in edit.graph.nodes):
        raise Refuse("its MatMul stands outside this body, where it is computed once")
    match.require_type("b", "a")
    left, right, added = (edit.shape(match[name]) for name in "abc")
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        kinds = ["unknown rank" if shape is None else f"rank {len(shape)}" for shape in (left, right)]
        raise Refuse(f"its factors are of {' and '.join(kinds)}, and Gemm multiplies matrices")
    if added is None or len(added) > 2:
        raise Refuse(f"what is added is {'of unknown rank' if added is None else f'of rank {len(added)}'}")
    result = [left[0], right[1]][2 - len(added) :]
    for size, room in zip(added, result, strict=True):
        if size != 1 and (size != room or size is None or (isinstance(size, int) and size < 0)):
            raise Refuse(f"what is added, {added}, may be larger than the product, {[left[0], right[1]]}")
