"""Make other tensors the outputs of the graph, as `--out_nodes` of Ascend's atc does, and drop what only fed the rest.

    x -> Conv -> a -> Relu -> b -> TopK -> c, d    outputs c, d
    x -> Conv -> a -> Relu -> b                    outputs b, a

    select-outputs: {outputs: [b, a]}

The outputs come in the order given, and what they compute is what they did. An input that fed dropped outputs only
goes too; one that nothing read before stays.

In a recipe it belongs to the passes on the whole graph: what a part puts out is what the parts behind it read. An
output that was none before is compared with what the graph before the pass computes for it, or with the captured
tensor that it equals, whose name it then gets.

A run ends with an error when
1. there is no such tensor, or it is one of an If or Loop body
2. it is an input or a constant, so that nothing computes it, and was no output before
3. its type or its number of dimensions is not known, which an output must have written down
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import name_nearest
from graphsurgery.rewrite import Editor, GraphPass


@dataclass(frozen=True)
class SelectOutputs(GraphPass):
    """`outputs` lists the names of the tensors that become the outputs."""

    name = "select-outputs"
    effect = "exact"
    keeps_outputs = False

    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.outputs:
            raise ValueError("outputs: a graph without outputs computes nothing; name one at least")
        twice = [name for name, count in Counter(self.outputs).items() if count > 1]
        if twice:
            raise ValueError(f"outputs: '{twice[0]}' is there twice")

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        if [tensor.name for tensor in graph.outputs] == list(self.outputs):
            return
        known = {tensor.name: tensor for node in graph.nodes for tensor in node.outputs if tensor.name}
        known |= {tensor.name: tensor for tensor in graph.outputs}
        chosen = [known.get(name) or self._refuse(name, known, graph, edit) for name in self.outputs]
        for tensor in chosen:
            _write_down_type(tensor, graph, edit)
        fed = [tensor for tensor in graph.inputs if tensor.outputs]
        edit.set_interface(outputs=chosen)
        graphs.drop_unused(graph)
        starved = {id(tensor) for tensor in fed if not (tensor.outputs or graphs.is_graph_output(tensor, graph))}
        edit.set_interface(inputs=[tensor for tensor in graph.inputs if id(tensor) not in starved])

    def _refuse(self, name: str, known: dict[str, gs.Tensor], graph: gs.Graph, edit: Editor) -> gs.Tensor:
        if any(tensor.name == name for tensor in graph.inputs):
            raise edit.fail(f"'{name}' is an input: nothing computes it")
        if any(tensor.name == name for node in graph.nodes for tensor in node.inputs if not graphs.producer(tensor)):
            raise edit.fail(f"'{name}' is a constant: nothing computes it")
        if name in graphs.tensor_names(graph):
            raise edit.fail(f"'{name}' is inside an If or Loop body; only what its graph hands out can be an output")
        raise edit.fail(f"there is no tensor '{name}'.{name_nearest(name, known)}")


def _write_down_type(tensor: gs.Tensor, graph: gs.Graph, edit: Editor) -> None:
    if graphs.is_graph_output(tensor, graph):
        return  # has one, tensor or not
    dtype, shape = edit.dtype(tensor), edit.shape(tensor)
    if dtype is None or shape is None:
        what = "type" if dtype is None else "number of dimensions"
        raise edit.fail(f"the {what} of '{tensor.name}' is not known, which an output must have; infer it first")
    edit.retype(tensor, dtype=dtype, shape=shape)
