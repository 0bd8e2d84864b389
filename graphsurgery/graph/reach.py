"""What a node reads, its bodies included, and which nodes depend on the inputs of the graph."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.graph.queries import subgraphs, with_bodies


def live_nodes(graph: gs.Graph) -> set[int]:
    """Return the nodes (as ids) that some graph input reaches; the others are constants in disguise."""
    inputs = {id(tensor) for tensor in graph.inputs}
    live: set[int] = set()
    for node in graph.nodes:
        if any(id(tensor) in inputs or any(id(n) in live for n in tensor.inputs) for tensor in read(node)):
            live.add(id(node))
    return live


def read(node: gs.Node) -> list[gs.Tensor]:
    """Return the tensors that `node` reads, also inside its bodies."""
    tensors = [tensor for inner in with_bodies(node) for tensor in inner.inputs]
    return tensors + [tensor for inner in with_bodies(node) for body in subgraphs(inner) for tensor in body.outputs]
