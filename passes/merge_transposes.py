"""Merge two Transposes in a row into one or none: on an NPU each is a pass over memory, or a trip to the CPU.

    x -> Transpose([0, 2, 3, 1]) -> Transpose([0, 1, 3, 2]) -> y   ->   x -> Transpose([0, 2, 1, 3]) -> y
    x -> Transpose([0, 2, 3, 1]) -> Transpose([0, 3, 1, 2]) -> y   ->   x, read as y
    x -> Transpose([0, 1, 2]) -> y                                 ->   x, read as y

Converters from TensorFlow write the second around each convolution. Where y is an output and its name can't be written
by what writes x, an Identity stays. The first Transpose stays too where something else reads it. A perm that is left
out reverses the dimensions, and the other of the two tells how many there are (two of them undo each other anyway).

It does not fire when
1. the perm does not fit the number of dimensions, or that of the Transpose before it
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, is_op, producer
from graphsurgery.rewrite import Editor, NodePass, Refuse


class MergeTransposes(NodePass):
    name = "merge-transposes"
    effect = "exact"
    matches = ("Transpose",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        source, perms = node.inputs[0], [_perm(node)]
        inner = producer(source)
        if inner is not None and is_op(inner, "Transpose"):
            source, perms = inner.inputs[0], [_perm(inner), _perm(node)]
        if perms == [[], []]:
            edit.bypass(node, source)
            return
        written = [perm for perm in perms if perm]
        known = written[0] if written else edit.shape(source)
        if known is None:
            return
        rank = len(known)
        composed = list(range(rank))
        for perm in perms:
            order = perm or list(range(rank))[::-1]
            if sorted(order) != list(range(rank)):
                raise Refuse(f"its perm, or the one before it, is no permutation of {rank} dimensions")
            composed = [composed[axis] for axis in order]
        if composed == list(range(rank)):
            edit.bypass(node, source)
        elif len(perms) == 2:
            edit.replace(node, "Transpose", [source], {"perm": composed})


def _perm(node: gs.Node) -> list[int]:
    """Return the perm that is written out; [] where none is."""
    return [int(axis) for axis in attribute(node, "perm", [])]
