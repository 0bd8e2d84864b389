"""Where the values of a graph flow: what depends on what, and the tensors through which everything goes.

The graphs must be sorted. Tensors are told apart by identity, so the sets hold their id(); graphsurgeon's tensors
are compared by value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph import is_op
from graphsurgery.operators.operands import LAYERS
from graphsurgery.rewrite import Editor


def flow(
    graph: gs.Graph,
    sources: Iterable[gs.Tensor],
    stops: Callable[[gs.Node, set[int]], bool],
    known: Iterable[gs.Tensor] = (),
) -> set[int]:
    """Return the ids of the tensors that depend on `sources`, other than through `known` or a node that `stops`.

    `stops` is also asked for the nodes in the bodies of a node, and it is given what has been found so far.
    """
    found = {id(tensor) for tensor in sources}
    fixed = {id(tensor) for tensor in known}
    for node in graph.nodes:
        if _depends(node, found, stops):
            found.update(id(tensor) for tensor in node.outputs if id(tensor) not in fixed)
    return found


def _depends(node: gs.Node, found: set[int], stops: Callable[[gs.Node, set[int]], bool]) -> bool:
    bodies = graphs.subgraphs(node)
    if any(id(tensor) in found for body in bodies for tensor in body.outputs):
        return True
    readers = [node, *(inner for body in bodies for inner in graphs.walk_nodes(body))]
    return any(id(t) in found and not stops(reader, found) for reader in readers for t in reader.inputs)


def upstream(graph: gs.Graph, sinks: Iterable[gs.Tensor], varying: set[int]) -> list[gs.Node]:
    """Return the nodes that `sinks` depend on through tensors in `varying`, in the order of the graph."""
    wanted = {id(tensor) for tensor in sinks}
    nodes = []
    for node in reversed(graph.nodes):
        if any(id(tensor) in wanted for tensor in node.outputs):
            wanted.update(id(tensor) for tensor in reads(node) if id(tensor) in varying)
            nodes.append(node)
    return nodes[::-1]


def bottlenecks(
    graph: gs.Graph, sinks: Iterable[gs.Tensor], varying: set[int], passable: Callable[[gs.Node], bool]
) -> list[gs.Tensor]:
    """Return the tensors that everything in `sinks` flows through, the nearest first; the walk ends at `passable`.

    Going backwards through a sorted graph, such a tensor is the only one that what has been passed still needs.
    """
    needed = {id(tensor): tensor for tensor in sinks if id(tensor) in varying}
    found = list(needed.values()) if len(needed) == 1 else []
    for node in reversed(graph.nodes):
        if not any(id(tensor) in needed for tensor in node.outputs) or not passable(node):
            continue
        for tensor in node.outputs:
            needed.pop(id(tensor), None)
        needed.update({id(tensor): tensor for tensor in reads(node) if id(tensor) in varying})
        if len(needed) == 1:
            found.extend(needed.values())
    return found


def reads(node: gs.Node) -> Iterator[gs.Tensor]:
    yield from node.inputs
    for body in graphs.subgraphs(node):
        yield from body.outputs
        for inner in graphs.walk_nodes(body):
            yield from inner.inputs


def weighted_input(node: gs.Node, varying: set[int]) -> gs.Tensor | None:
    """Return what a node multiplies by weights, where that varies and the weights do not."""
    if not is_op(node, *LAYERS):
        return None
    moving = [tensor for tensor in node.inputs[:2] if id(tensor) in varying]
    return moving[0] if len(moving) == 1 else None


def is_shape(node: gs.Node) -> bool:
    return is_op(node, "Shape", "Size")


def at_fixed_shapes(edit: Editor) -> Callable[[gs.Node, set[int]], bool]:
    """Return what tells for `flow` whether a node asks for a shape that is known."""
    return lambda node, _: is_shape(node) and edit.static_shape(node.inputs[0]) is not None
