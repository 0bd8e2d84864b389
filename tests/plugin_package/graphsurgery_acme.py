"""Merge two Relus in a row into one, for Acme's compiler, which gives each a trip through memory.

    x -> Relu -> Relu -> y  ->  x -> Relu -> y

It does not fire when
1. the first is a graph output, so that something outside of the graph reads it
2. something else reads the first as well
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.graph import consumers, is_op, producer
from graphsurgery.rewrite import Editor, NodePass


@dataclass(frozen=True)
class AcmeMergeRelus(NodePass):
    name = "acme-merge-relus"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if not is_op(node, "Relu"):
            return
        (once,) = node.inputs
        first = producer(once)
        if first is None or not is_op(first, "Relu"):
            return
        if edit.is_output(once):
            return edit.skip(node, "the Relu before it is a graph output")
        if len(consumers(once)) > 1:
            return edit.skip(node, "something else reads the Relu before it")
        edit.set_input(node, 0, first.inputs[0])
