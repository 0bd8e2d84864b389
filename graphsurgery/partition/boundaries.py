"""Which part each node for the host goes into, and the tensors that cross from one part into another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph.reach import read
from graphsurgery.operators.operands import LAYERS
from graphsurgery.partition.islands import HostNode
from graphsurgery.partition.weights import needed

# Worth computing once: these never move to a later part.
_STAY = ("RoiAlign", "NonMaxSuppression", "TopK", "NonZero", "If", "Loop", "Scan")
# Chains of cheap nodes up to this length are run again rather than let their result cross.
_RECOMPUTE_DEPTH = 8


@dataclass
class Cut:
    """What `find_cut` found in `graph`: for each part in the order data flows, whether it is for the accelerator,
    the nodes it holds, and the tensors it reads and writes. `behind` are the nodes that a part took along behind its
    last weight, `between` those among the nodes of all parts that no accelerator runs, though they stand between
    weights. What depends on constants alone is in no part: it is repeated where it is read. `sampled` are the axes of
    crossing tensors whose sizes the captured samples tell, not the graph.
    """

    graph: gs.Graph
    accelerator: list[bool] = field(default_factory=list)
    nodes: list[list[gs.Node]] = field(default_factory=list)
    inputs: list[list[gs.Tensor]] = field(default_factory=list)
    outputs: list[list[gs.Tensor]] = field(default_factory=list)
    behind: list[list[gs.Node]] = field(default_factory=list)
    between: list[HostNode] = field(default_factory=list)
    sampled: dict[str, list[int]] = field(default_factory=dict)

    def crossing(self) -> list[gs.Tensor]:
        """Return the tensors that leave one part for another, in the order they are written."""
        ends = {id(tensor) for tensor in self.graph.outputs}
        return [tensor for written in self.outputs for tensor in written if id(tensor) not in ends]


def host_positions(graph: gs.Graph, islands: Sequence[set[int]], live: set[int]) -> dict[int, int]:
    """Return for each host node the number of accelerator parts that it stands behind."""
    position: dict[int, int] = {}
    where = {node: index for index, island in enumerate(islands) for node in island}
    for node in graph.nodes:
        if id(node) in live:
            behind = [position[id(needed)] for needed in needed(node) if id(needed) in position]
            position[id(node)] = where[id(node)] + 1 if id(node) in where else max(behind, default=0)
    return {node: slot for node, slot in position.items() if node not in where}


def sink(graph: gs.Graph, slots: dict[int, int], islands: Sequence[set[int]]) -> dict[int, int]:
    """Move host nodes that only later parts read into those parts, where that lets fewer tensors cross.

    A detector takes boxes apart into columns before the box head and reads the columns behind it: then the boxes
    should cross, not the columns.
    """
    moved = dict(slots)
    where = {node: index for index, island in enumerate(islands) for node in island}
    top = {id(inner): id(node) for node in graph.nodes for inner in graphs.with_bodies(node)}
    ends = {id(tensor) for tensor in graph.outputs}
    for node in reversed(graph.nodes):
        heavy = any(graphs.is_op(inner, *_STAY) for inner in graphs.with_bodies(node))
        if id(node) not in moved or heavy or any(id(tensor) in ends for tensor in node.outputs):
            continue
        readers = [top[id(reader)] for tensor in node.outputs for reader in tensor.outputs]
        # an accelerator part reads what its host part before it wrote; a host node can't move into it
        slot = min((where.get(r, moved.get(r, 0)) for r in readers), default=moved[id(node)])
        moved[id(node)] = max(slot, moved[id(node)])
    return moved if _crossings(graph, moved, where, top) < _crossings(graph, slots, where, top) else slots


def _crossings(graph: gs.Graph, slots: Mapping[int, int], where: Mapping[int, int], top: Mapping[int, int]) -> int:
    """Count the tensors that a part other than the writing one reads, and the graph inputs once for each reader."""
    place = {node: 2 * slot for node, slot in slots.items()} | {node: 2 * index + 1 for node, index in where.items()}
    count = 0
    for tensor in graph.inputs:
        count += len({place.get(top[id(reader)]) for reader in tensor.outputs})
    for node in graph.nodes:
        if id(node) in place:
            for tensor in node.outputs:
                count += any(place.get(top[id(reader)], 0) > place[id(node)] for reader in tensor.outputs)
    return count


def boundaries(graph: gs.Graph, part_of: Mapping[int, int], kinds: list[bool]) -> Cut:
    """Return the tensors that each part reads and writes; `kinds` says which parts are for the accelerator."""
    ends = {id(tensor) for tensor in graph.outputs}
    inputs: list[dict[int, gs.Tensor]] = [{} for _ in kinds]
    outputs: list[dict[int, gs.Tensor]] = [{} for _ in kinds]
    own = {id(tensor) for tensor in graph.inputs}
    for node in graph.nodes:
        part = part_of.get(id(node))
        if part is None:
            continue
        for tensor in read(node):
            writer = graphs.producer(tensor)
            if id(tensor) in own:
                inputs[part][id(tensor)] = tensor
            elif writer is not None and part_of.get(id(writer), part) != part:
                inputs[part][id(tensor)] = tensor
                outputs[part_of[id(writer)]][id(tensor)] = tensor
        for tensor in node.outputs:
            if id(tensor) in ends:
                outputs[part][id(tensor)] = tensor
    for part, given in enumerate(inputs):
        for tensor in [] if kinds[part] else list(given.values()):
            if _recomputable(tensor, given, part_of, kinds):
                del given[id(tensor)]
    needed_anywhere = {key for given in inputs for key in given} | ends
    outputs = [{key: t for key, t in written.items() if key in needed_anywhere} for written in outputs]
    there = own | {key for written in outputs for key in written}
    outputs[-1].update((id(tensor), tensor) for tensor in graph.outputs if id(tensor) not in there)  # constants
    cut = Cut(graph, kinds)
    for part in range(len(kinds)):
        cut.nodes.append([node for node in graph.nodes if part_of.get(id(node)) == part])
        cut.inputs.append(list(inputs[part].values()))
        order = {id(t): i for i, t in enumerate(t for node in graph.nodes for t in node.outputs)}
        order |= {id(t): len(order) + i for i, t in enumerate(graph.outputs)}
        cut.outputs.append(sorted(outputs[part].values(), key=lambda tensor: order[id(tensor)]))
    return cut


def _recomputable(
    tensor: gs.Tensor, available: Mapping[int, gs.Tensor], part_of: Mapping[int, int], kinds: Sequence[bool]
) -> bool:
    """Whether a few cheap host nodes give `tensor` out of what a part reads anyway: a column of boxes, say."""
    pending = [(tensor, 0)]
    while pending:
        current, depth = pending.pop()
        if depth and (id(current) in available or graphs.constant(current) is not None):
            continue
        node = graphs.producer(current)
        part = part_of.get(id(node)) if node is not None else None
        if node is None or depth > _RECOMPUTE_DEPTH or (part is None and node.inputs):
            return False
        heavy = any(graphs.is_op(inner, *_STAY, *LAYERS) for inner in graphs.with_bodies(node))
        if heavy or (part is not None and kinds[part]):
            return False
        pending.extend((t, depth + 1) for t in node.inputs if t.name)
    return True
