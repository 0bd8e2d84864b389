"""Which nodes hold the weights by which a graph is cut: the layers of its network, and those of its decode.

Conv, ConvTranspose, Gemm and MatMul with a constant operand are layers. Some of a detector are no part of its network
but of the arithmetic that makes boxes of what its heads gave. Two kinds are told, where no other layer stands behind:

- the mean of a distribution: the layer reads a Softmax, past nodes that only move elements (the DFL of YOLOv8 is such
  a Conv, whose weights are 0 to 15)
- one kind of box into another: a MatMul by a stored 4x4 matrix of whole and half numbers
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.graph.reach import read
from graphsurgery.graph.view import table
from graphsurgery.operators.functions import hidden_layers
from graphsurgery.operators.operands import LAYERS

# They change neither an element nor, but for where they stand, which ones there are.
_MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Slice", "Split")


def needed(node: gs.Node) -> Iterator[gs.Node]:
    """Yield the nodes around `node` whose outputs it reads, also from inside its bodies."""
    return (producer for tensor in read(node) for producer in tensor.inputs)


def label(node: gs.Node) -> str:
    """Return what a message calls a node."""
    return str(node.name or (node.outputs[0].name if node.outputs else node.op))


def weighted_nodes(graph: gs.Graph, live: set[int], without_decode: bool) -> set[int]:
    """Return the layers (as ids); with `without_decode` those of the network alone, if it has any."""
    layers = [node for node in graph.nodes if id(node) in live and _is_weighted(node, live)]
    found = {id(node) for node in layers}
    if not without_decode:
        return found
    kept: set[int] = set()  # layers of the network, and what stands before them
    for node in reversed(graph.nodes):
        layer = id(node) in found and not (id(node) not in kept and _decodes(node))
        if layer or id(node) in kept:
            kept.add(id(node))
            kept.update(id(producer) for producer in needed(node))
    return found & kept or found


def is_bias(node: gs.Node, weights: set[int], live: set[int]) -> bool:
    """Whether `node` adds to the product of a MatMul what depends on no input: a bias, which Gemm holds itself."""
    if not graphs.is_op(node, "Add"):
        return False
    products = [graphs.producer(tensor) for tensor in node.inputs]
    given = [each for each in products if each is not None and id(each) in live]
    constant = sum(
        graphs.is_constant(t) or (p is not None and id(p) not in live)
        for t, p in zip(node.inputs, products, strict=True)
    )
    return constant == 1 and len(given) == 1 and id(given[0]) in weights and graphs.is_op(given[0], "MatMul")


def refuse_hidden_weights(graph: gs.Graph) -> None:
    """Raise InputError for a layer inside a model-local function: it would be taken for the host's."""
    base = table(graph).base
    hidden = hidden_layers(Model.of(graph).proto) if base is not None and base.functions else None
    if hidden is not None:
        raise InputError(f"partition: {hidden}")


def refuse_open_weights(graph: gs.Graph) -> None:
    """Raise InputError for a weight that a caller may override, which no accelerator can be given beforehand."""
    open_ = {id(tensor): tensor.name for tensor in graph.inputs if graphs.has_default(tensor, graph)}
    given = {id(tensor) for tensor in graph.inputs if id(tensor) not in open_}
    for node in graph.nodes if open_ else ():
        found = [open_[id(tensor)] for tensor in node.inputs[:2] if id(tensor) in open_]
        if found and graphs.is_op(node, *LAYERS):
            raise InputError(
                f"partition: node '{label(node)}' ({node.op}) reads its weight from '{found[0]}', which is an "
                f"input with a default; put drop-initializer-inputs first among the passes"
            )
        tensors = [tensor for inner in graphs.with_bodies(node) for tensor in inner.inputs]
        written = [id(tensor) for tensor in node.outputs]
        if any(id(tensor) in given for tensor in tensors):
            given.update(written)
        else:  # a weight that is transposed or dequantized first
            origins = [open_[id(tensor)] for tensor in tensors if id(tensor) in open_]
            open_.update(dict.fromkeys(written, origins[0]) if origins else {})


def _is_weighted(node: gs.Node, live: set[int]) -> bool:
    """Whether an operand of `node` is a weight: stored, or computed from what is (dequantized, transposed)."""
    if not graphs.is_op(node, *LAYERS):
        return False
    return any(isinstance(t, gs.Constant) or any(id(n) not in live for n in t.inputs) for t in node.inputs[:2])


def _decodes(node: gs.Node) -> bool:
    for tensor in node.inputs[:2]:
        source = graphs.producer(tensor)
        while source is not None and graphs.is_op(source, *_MOVES):
            source = graphs.producer(source.inputs[0])
        if graphs.is_op(source, "Softmax"):
            return True
    for tensor in node.inputs[:2] if graphs.is_op(node, "MatMul") else ():
        matrix = graphs.constant(tensor) if graphs.static_shape(tensor) == (4, 4) else None
        if matrix is not None and np.ptp(matrix) and np.array_equal(matrix * 2, np.round(matrix * 2)):
            return True
    return False
