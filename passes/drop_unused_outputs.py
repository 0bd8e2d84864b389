"""Drop the optional outputs of a node that nothing reads: a compiler refuses a MaxPool with indices, read or not.

    y, indices = MaxPool(x)        ->   y = MaxPool(x)
    y, y_h, y_c = LSTM(x, w, r)    ->   y = LSTM(x, w, r)
    y, y_h, y_c = LSTM(x, w, r)    ->   "", y_h = LSTM(x, w, r)      where y_h alone is read

Which outputs are optional is what ONNX says of the operator in the model's operator set. A required output stays, and
so do those of Split, If or Loop, whose number means something.

It does not fire when
1. the node is a BatchNormalization that trains, since such a one must write all of its outputs; before operator set 14
   it trains just because it writes more than one
2. the node is an Attention that reads a past key or value: ONNX Runtime runs none that does not write the present ones
"""

from __future__ import annotations

import onnx_graphsurgeon as gs
from onnx.defs import OpSchema

from graphsurgery import graph as graphs
from graphsurgery.graph import attribute, consumers, is_op
from graphsurgery.operators.schemas import schema_of
from graphsurgery.rewrite import Editor, GraphPass

# the first operator set in which an attribute, not the number of outputs, says whether BatchNormalization trains
_TRAINING_MODE = 14


class DropUnusedOutputs(GraphPass):
    name = "drop-unused-outputs"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        graphs.drop_unused(graph)  # what an unused node reads is not read
        ends = {id(tensor) for inner in graphs.walk_graphs(graph) for tensor in inner.outputs}
        for node in graphs.walk_nodes(graph):
            optional = (tensor for tensor in _optional(node, edit.opset) if tensor.name and not consumers(tensor))
            unused = {id(tensor) for tensor in optional} - ends
            if not unused:
                continue
            reason = _why_all(node, edit.opset)
            if reason is not None:
                edit.skip(node, reason)
                continue
            kept = [gs.Variable.empty() if id(tensor) in unused else tensor for tensor in node.outputs]
            while not kept[-1].name:
                kept.pop()
            edit.set_outputs(node, kept)


def _optional(node: gs.Node, opset: int) -> list[gs.Tensor]:
    """Return the outputs that `node` need not write."""
    schema = schema_of(node, opset)
    pairs = zip(node.outputs, schema.outputs if schema is not None else (), strict=False)
    return [tensor for tensor, declared in pairs if declared.option == OpSchema.FormalParameterOption.Optional]


def _why_all(node: gs.Node, opset: int) -> str | None:
    """Say why `node` must write all of its outputs; None where it need not."""
    if is_op(node, "BatchNormalization") and (opset < _TRAINING_MODE or attribute(node, "training_mode", 0)):
        return "it trains, and then it must write all of its outputs"
    if is_op(node, "Attention") and any(tensor.name for tensor in node.inputs[4:6]):
        return "it reads the past, and then it must write the present"
    return None
