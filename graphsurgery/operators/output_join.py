"""What an output of the model joins: the Concat that writes it, Transposes and Identities behind it or not."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph import attribute, is_op, producer
from graphsurgery.operators.operands import FLOATS
from graphsurgery.rewrite import Editor, Refuse

JOINING = "Concat"


@dataclass(frozen=True)
class OutputJoin:
    """What `node` joins along `axis` for an output, which is then transposed by `perm`, if not None."""

    node: gs.Node
    axis: int
    perm: tuple[int, ...] | None

    @property
    def tensors(self) -> tuple[gs.Tensor, ...]:
        """The tensors that are joined."""
        return tuple(self.node.inputs)

    @property
    def axis_of_output(self) -> int:
        """Where the axis is in the output."""
        return self.axis if self.perm is None else self.perm.index(self.axis)


def output_join(output: gs.Tensor, edit: Editor) -> OutputJoin:
    """Return what `output` of the model joins, if each of that can be an output in its place.

    Raises Refuse where no Concat writes it, or one of what that joins is no floating-point tensor that a node of the
    graph computes, an output already, or joined twice.
    """
    node, perms = producer(output), []
    while node is not None and is_op(node, "Transpose", "Identity"):
        perms += [node.attrs.get("perm")] if node.op == "Transpose" else []
        node = producer(node.inputs[0])
    shape = edit.shape(output)
    if node is None or not is_op(node, JOINING) or len(node.inputs) < 2 or shape is None:
        raise Refuse(f"is not written by a {JOINING}")
    for part in node.inputs:
        inside = producer(part) is not None and any(producer(part) is each for each in edit.root.nodes)
        if not inside or graphs.is_constant(part) or edit.is_output(part):
            raise Refuse(f"joins '{part.name}', which is a constant, an input, or an output already")
        dtype = edit.dtype(part)
        if dtype is None or dtype.name not in FLOATS:
            raise Refuse(f"joins '{part.name}', whose elements are {dtype or 'of unknown type'}")
    if len({id(part) for part in node.inputs}) < len(node.inputs):
        raise Refuse("joins the same tensor twice")
    order = list(range(len(shape)))
    for perm in reversed(perms):
        order = order[::-1] if perm is None else [order[place] for place in perm]
    perm = None if order == sorted(order) else tuple(order)
    return OutputJoin(node, int(attribute(node, "axis", 1)) % len(shape), perm)
