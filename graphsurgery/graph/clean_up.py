"""The two clean-ups that every pass gets for free: unused nodes and order.

Both are iterative and linear in the size of the graph. graphsurgeon's own toposort is recursive and raises
RecursionError on a chain of 500 nodes in reverse order.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

import onnx_graphsurgeon as gs

from graphsurgery.errors import ModelError
from graphsurgery.graph.queries import holders, subgraphs, with_bodies


def drop_unused(graph: gs.Graph) -> bool:
    """Remove, in place, every node that no graph output depends on; graph inputs and outputs stay.

    A body's node counts as used when the body's outputs need it, and the node that holds the body is used. Returns
    whether it is plain to see that `sort` has nothing to do.
    """
    unneeded = _unneeded_in_order(graph)
    dead: set[int] = set()
    touched: dict[int, gs.Tensor] = {}
    for current, gone in _unneeded(graph) if unneeded is None else [(graph, unneeded)]:
        if not gone:
            continue
        for lost in (inner for node in gone for inner in with_bodies(node)):
            dead.add(id(lost))
            for tensor in (*lost.inputs, *lost.outputs):
                touched[id(tensor)] = tensor
        current.nodes = [node for node in current.nodes if id(node) not in dead]
    for tensor in touched.values():
        _keep(tensor.outputs, [n for n in tensor.outputs if id(n) not in dead])
        _keep(tensor.inputs, [n for n in tensor.inputs if id(n) not in dead])
    return unneeded is not None


def _unneeded_in_order(graph: gs.Graph) -> list[gs.Node] | None:
    """Return what `_unneeded` does, in half its time, of a graph that is in order and has no bodies; None of any other.

    Who is needed is forgotten as soon as it is passed, so that a large graph doesn't fill the processor's caches.
    """
    if holders(graph.nodes):
        return None
    ahead = {id(node) for tensor in graph.outputs for node in tensor.inputs}
    unneeded = []
    for node in reversed(graph.nodes):
        own = id(node)
        if own not in ahead:
            unneeded.append(node)
            continue
        ahead.remove(own)
        for tensor in node.inputs:
            for needed in tensor.inputs:
                ahead.add(id(needed))
    return None if ahead else unneeded  # what is still to come was passed: it stands behind a node that needs it


def _unneeded(graph: gs.Graph) -> Iterator[tuple[gs.Graph, list[gs.Node]]]:
    """Yield the graph, and each body that is needed, with the nodes that no output of `graph` depends on."""
    live, bodies = _live(graph)
    graphs = [graph]
    while graphs:
        current = graphs.pop()
        graphs.extend(body for node in current.nodes for body in bodies.get(id(node), ()))
        yield current, [node for node in current.nodes if id(node) not in live]


def _live(graph: gs.Graph) -> tuple[set[int], dict[int, list[gs.Graph]]]:
    """Return the ids of the nodes that the outputs of `graph` depend on, and by them the bodies that these hold."""
    live: set[int] = set()
    bodies: dict[int, list[gs.Graph]] = {}
    pending: list[gs.Tensor] = list(graph.outputs)
    while pending:
        for node in pending.pop().inputs:
            if id(node) in live:
                continue
            live.add(id(node))
            for tensor in node.inputs:
                if tensor.inputs:
                    pending.append(tensor)
            held = subgraphs(node)
            if held:
                bodies[id(node)] = held
                pending.extend(tensor for body in held for tensor in body.outputs)
    return live, bodies


def sort(graph: gs.Graph) -> bool:
    """Order the nodes of `graph` and of the graphs inside it so that each stands behind what it reads, in place.

    Nodes that are in a valid order already stay as they are. Returns whether any moved. Raises ModelError when there
    is a cycle.
    """
    moved = False
    pending = [graph]
    while pending:
        current = pending.pop()
        bodies = _bodies(current)
        pending.extend(body for held in bodies.values() for body in held)
        if not _is_ordered(current, bodies):
            current.nodes = ordered(current)
            moved = True
    return moved


def ordered(graph: gs.Graph) -> list[gs.Node]:
    """Return the nodes of `graph`, not those inside them, as `sort` would order them."""
    if _is_ordered(graph, _bodies(graph)):  # nearly always, and told in half the time
        return list(graph.nodes)
    here = {id(node) for node in graph.nodes}
    done: set[int] = set()
    open_: set[int] = set()
    order: list[gs.Node] = []
    for root in graph.nodes:
        stack: list[tuple[gs.Node, Iterator[gs.Node]]] = []
        if id(root) not in done:
            open_.add(id(root))
            stack.append((root, _needs(root)))
        while stack:
            node, needs = stack[-1]
            for needed in needs:
                if id(needed) not in here or id(needed) in done:
                    continue
                if id(needed) in open_:
                    raise ModelError(f"node '{needed.name or needed.op}': the graph has a cycle through this node")
                open_.add(id(needed))
                stack.append((needed, _needs(needed)))
                break
            else:
                stack.pop()
                open_.discard(id(node))
                done.add(id(node))
                order.append(node)
    return order


def _bodies(graph: gs.Graph) -> dict[int, list[gs.Graph]]:
    """Return the bodies that nodes of `graph` hold, by the ids of these."""
    return {id(node): subgraphs(node) for node in holders(graph.nodes)}


def _is_ordered(graph: gs.Graph, holding: Container[int]) -> bool:
    to_come = set(map(id, graph.nodes))
    for node in graph.nodes:
        for tensor in node.inputs:  # as `_needs` has it, which is too slow to ask it of each node
            for needed in tensor.inputs:
                if id(needed) in to_come:
                    return False
        if id(node) in holding and any(id(needed) in to_come for needed in _needs(node)):
            return False
        to_come.discard(id(node))
    return True


def _needs(node: gs.Node) -> Iterator[gs.Node]:
    """Yield the nodes whose outputs `node` reads, also from inside its bodies."""
    for tensor in node.inputs:
        yield from tensor.inputs
    if not subgraphs(node):
        return
    for inner in with_bodies(node):
        for tensor in inner.inputs:
            yield from tensor.inputs
    for body in (b for n in with_bodies(node) for b in subgraphs(n)):
        for tensor in body.outputs:
            yield from tensor.inputs


def _keep(nodes: Any, kept: list[gs.Node]) -> None:
    """Replace a synchronised list's content without touching the other side."""
    if len(kept) != len(nodes):
        list.clear(nodes)
        list.extend(nodes, kept)
