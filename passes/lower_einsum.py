"""Lower an Einsum of one or two operands to Transpose, Reshape and MatMul, for compilers that have none.

    Einsum(a, "bij->bji")          ->  Transpose(a)
    Einsum(a, "bij->bj")           ->  ReduceSum(a, axis 1)
    Einsum(a, b, "bij,bjk->bik")   ->  MatMul(a, b)
    Einsum(a, b, "bqnc,bnchw->bqnhw")
        ->  a [b, n, q, c] times b [b, n, c, h*w], MatMul, then Reshape and Transpose to [b, q, n, h, w]

A label in both operands and in the result is a batch of the MatMul, one that the result lacks is summed over. The
sums run over the same products in another order, as they do between any two versions of a library.

It does not fire when
1. it has three operands or more, `...`, or a label twice in one operand
2. a label of one operand alone is summed over, where there are two
3. the rank of an operand is not known or not that of its labels
4. a size that must be written into a Reshape is not known, or 0
5. the operands may differ in the size of a label: a size of 1 would be repeated
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.requirements import require_shape
from graphsurgery.operators.slices import Link, chain, reshaping
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerEinsum(NodePass):
    name = "lower-einsum"
    effect = "exact"
    matches = ("Einsum",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        equation = str(attribute(node, "equation", "")).replace(" ", "")
        operands, result = _labels(equation, len(node.inputs))
        shapes = [
            require_shape(tensor, edit, ranks=(len(labels),))
            for tensor, labels in zip(node.inputs, operands, strict=True)
        ]
        if len(operands) == 1:
            _of_one(node, operands[0], result, edit)
        else:
            _of_two(node, operands, result, shapes, edit)


def _labels(equation: str, count: int) -> tuple[list[str], str]:
    """Return the labels of each operand and of the result; raise Refuse where they are of another kind than above."""
    left, arrow, result = equation.partition("->")
    operands = left.split(",")
    if len(operands) != count or count > 2 or "." in equation:
        raise Refuse(f"'{equation}' is not of one or two operands without ellipsis")
    if any(len(set(labels)) != len(labels) for labels in (*operands, result)):
        raise Refuse(f"'{equation}' has a label twice in one operand")
    if not arrow:  # the specification: those that appear once, in alphabetical order
        result = "".join(sorted(label for label in set(left) - {","} if left.count(label) == 1))
    return operands, result


def _of_one(node: gs.Node, labels: str, result: str, edit: Editor) -> None:
    summed = [axis for axis, label in enumerate(labels) if label not in result]
    left = "".join(label for label in labels if label in result)
    links = []
    if summed:
        if edit.opset < 13:
            links.append(Link("ReduceSum", attrs={"axes": summed, "keepdims": 0}))
        else:
            axes = edit.constant(f"{node.outputs[0].name}_axes", summed)
            links.append(Link("ReduceSum", (axes,), {"keepdims": 0}))
    links += _permuting(left, result)
    if links:
        chain(edit, node, node.inputs[0], links)
    else:
        edit.bypass(node, node.inputs[0])


def _of_two(
    node: gs.Node, operands: Sequence[str], result: str, shapes: Sequence[Sequence[int | None]], edit: Editor
) -> None:
    first, second = operands
    sizes = [dict(zip(labels, shape, strict=True)) for labels, shape in zip(operands, shapes, strict=True)]
    both = [label for label in first if label in second]
    batch, summed = [x for x in both if x in result], [x for x in both if x not in result]
    own = [[x for x in labels if x not in both] for labels in operands]
    if lost := [label for labels in own for label in labels if label not in result]:
        raise Refuse(f"'{lost[0]}' is summed over in one operand alone")
    for label in both:
        a, b = sizes[0][label], sizes[1][label]
        if a != b or (a is None and label in summed):
            raise Refuse(f"the sizes of '{label}' are {a} and {b}: not known to be equal")
    merged = {"rows": own[0], "columns": own[1], "sum": summed}
    known = sizes[1] | sizes[0]
    if any(len(group) != 1 for group in merged.values()) and not all(known.values()):
        raise Refuse("a size that a Reshape must be told is not known, or 0")

    def size(labels: Sequence[str]) -> int:
        return math.prod(known[label] or 0 for label in labels)

    def laid_out(tensor: gs.Tensor, labels: str, groups: Sequence[Sequence[str]], what: str) -> gs.Tensor:
        """Bring an operand to the batch and two axes, one for each group of labels."""
        links = _permuting(labels, "".join([*batch, *(label for group in groups for label in group)]))
        hint = f"{node.outputs[0].name}_{what}"
        if any(len(group) != 1 for group in groups):
            links.append(reshaping(edit, hint, [*(known[x] for x in batch), *map(size, groups)]))
        for link in links:
            tensor = edit.emit(link.op, [tensor, *link.parameters], link.attrs, hint=hint)
        return tensor

    left = laid_out(node.inputs[0], first, [own[0], summed], "left")
    right = laid_out(node.inputs[1], second, [summed, own[1]], "right")
    computed = [*batch, *own[0], *own[1]]
    links = [Link("MatMul", (right,), hint="product")]
    if len(own[0]) != 1 or len(own[1]) != 1:
        links.append(reshaping(edit, node.outputs[0].name, [known[label] for label in computed]))
    chain(edit, node, left, [*links, *_permuting("".join(computed), result)])


def _permuting(labels: str, wanted: str) -> list[Link]:
    """Return the Transpose that brings axes of `labels` into the order `wanted`, nothing where they are."""
    perm = [labels.index(label) for label in wanted]
    return [] if labels == wanted else [Link("Transpose", attrs={"perm": perm})]
