"""Drop Identity, which an exporter writes to rename a tensor and an NPU compiler may take for a copy, or refuse.

    x -> Relu -> a -> Identity -> b -> Conv   ->   x -> Relu -> a -> Conv
    x -> Relu -> a -> Identity -> y (output)  ->   x -> Relu -> y

It does not fire when
1. what it writes is an output and what it reads is not written in the same graph: the output of a model can't be its
   input or an initializer, and the output of an If or Loop body can't be a tensor from outside
2. what it reads is an output too: one of the two names would be lost
3. the two tensors have quantization annotations that differ; if one of them has one, it goes to what is left
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.rewrite import Editor, NodePass


class DropIdentity(NodePass):
    name = "drop-identity"
    effect = "exact"
    matches = ("Identity",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        edit.bypass(node, node.inputs[0])
