"""Cuts a detector into parts by structure, never by node names, which change with every exporter.

1. `partition.at` names operators, tensors, or the role `detections`. RoIAlign nodes whose outputs meet in one tensor
   before the next weight are one cut, and so are tensors of which none depends on another (`stages`).
2. stage(node) = the number of cuts on the longest path from the inputs to it.
3. The weights of one stage (Conv, ConvTranspose, Gemm, MatMul with a constant operand) and all nodes between them are
   an accelerator part, with what belongs to the layers at its ends (`islands`). What is left between two accelerator
   parts is a host part (`boundaries`).
4. A cut tensor is any tensor that crosses. What depends on constants alone is repeated where it is used.

Mask R-CNN has two pools and so three accelerator parts, each followed by a host part; RetinaNet has none and one.

The role `detections` is for a detector of one stage. It cuts behind the raw outputs of its heads: the accelerator part
ends with the last layers of the network and their activations, and everything behind them, which makes boxes and
scores of what they gave and selects, is the host's. A layer of that decode, such as DFL's, is none of the network
(`weights`). Where `at` names tensors the same holds: the decode behind them is one host part.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import InputError, ModelError
from graphsurgery.graph.model import Model
from graphsurgery.graph.multiply_adds import multiply_adds
from graphsurgery.graph.reach import live_nodes
from graphsurgery.partition.boundaries import Cut, boundaries, host_positions, sink
from graphsurgery.partition.by_target import ByTarget, stages_by_target
from graphsurgery.partition.islands import Network, lacking
from graphsurgery.partition.operator_names import is_known, unknown
from graphsurgery.partition.stages import CutPoints, Cuts, find_cuts, stages
from graphsurgery.partition.weights import refuse_hidden_weights, refuse_open_weights, weighted_nodes


def find_cut(
    graph: gs.Graph,
    at: str | CutPoints | ByTarget,
    include: Sequence[Collection[str]] = (),
    supported: Collection[str] = (),
    on_host: Collection[int] = (),
    strict: bool = True,
) -> Cut:
    """Find the parts of `graph`, whose shapes are known, cut at `at`; unused nodes go, the rest is sorted.

    `include[i]` names operators behind the last weight that the i-th accelerator part takes along. An operator of
    another domain is named by its type, if no standard one is called so, or as domain.Type. `supported` are operators
    of HOST_ONLY that the target runs. The weights of the stages `on_host` are the host's, as all their nodes are.
    Where a target says what it takes, it is cut wherever that ends (`by_target`).
    Raises InputError for an `at` that is neither in the graph nor an operator of ONNX, and for weights that are inputs
    or inside a function, ModelError for a graph without weights and, if `strict`, when a node that no accelerator runs
    stands between the weights of one stage.
    """
    by_target, at = (at, CutPoints()) if isinstance(at, ByTarget) else (None, at)
    at = CutPoints.of(at) if isinstance(at, str) else at
    graphs.drop_unused(graph)
    graphs.sort(graph)
    live = live_nodes(graph)
    for op in supported:
        if not is_known(op, graph):
            raise InputError(f"partition.supported: {unknown(op, graph)}")
    refuse_hidden_weights(graph)
    refuse_open_weights(graph)
    network = _cut_at(graph, at, supported, live) if by_target is None else _cut_by(graph, by_target, live)
    weighted = sorted({stage for node, stage in network.stages.items() if node in network.weights} - {*on_host})
    if not weighted and by_target is not None:
        raise ModelError(f"graph '{graph.name}': the target takes none of the layers with constant weights")
    if not weighted:
        raise ModelError(
            f"graph '{graph.name}': no Conv, ConvTranspose, Gemm or MatMul with constant weights to cut by"
        )
    found = [
        network.island(stage, include[index] if index < len(include) else (), at)
        for index, stage in enumerate(weighted)
    ]
    if by_target is not None and by_target.smallest:
        found = [island for island in found if _is_worth_it(graph, island.nodes, by_target.smallest)]
        if not found:
            raise ModelError(f"no part for the target would have {by_target.smallest} multiply-adds; lower `smallest`")
    between = [error for island in found for error in island.between]
    if strict and between:
        raise ModelError(between[0].explain())
    islands = [island.nodes for island in found]
    part_of: dict[int, int] = {}
    kinds: list[bool] = []
    after = sink(graph, host_positions(graph, islands, live), islands)
    for slot in range(len(islands) + 1):
        host = [node for node in graph.nodes if after.get(id(node)) == slot]
        if host:
            part_of.update((id(node), len(kinds)) for node in host)
            kinds.append(False)
        if slot < len(islands):
            part_of.update((id(node), len(kinds)) for node in graph.nodes if id(node) in islands[slot])
            kinds.append(True)
    cut = boundaries(graph, part_of, kinds)
    cut.between = between
    taken = set().union(*(island.behind for island in found))
    cut.behind = [[node for node in nodes if id(node) in taken] for nodes in cut.nodes]
    return cut


def _cut_at(graph: gs.Graph, at: CutPoints, supported: Collection[str], live: set[int]) -> Network:
    weights = weighted_nodes(graph, live, at.without_decode)
    cuts = find_cuts(graph, at, weights, live)
    missing = {id(node): ops for node in graph.nodes if (ops := lacking(node, supported))}
    return Network(graph, live, weights, cuts, stages(graph, cuts, live), missing)


def _cut_by(graph: gs.Graph, target: ByTarget, live: set[int]) -> Network:
    missing = {}
    for node in graph.nodes:
        # the rows of a layer can be frozen behind the cut; sizes that what selects makes up can't
        if id(node) in live and not target.takes(node, not lacking(node, ())):
            missing[id(node)] = [node.op]
    weights = weighted_nodes(graph, live, without_decode=False) - missing.keys()
    found = stages_by_target(graph, live, weights, {*missing})
    welcome = {id(node) for node in graph.nodes if id(node) not in missing and lacking(node, ())}
    return Network(graph, live, weights, Cuts({}, {}, frozenset()), found, missing, frozenset(welcome))


def _is_worth_it(graph: gs.Graph, island: Collection[int], smallest: int) -> bool:
    """Whether an island has at least so many multiply-adds; where that isn't known it is."""
    counts = multiply_adds(Model.of(graph))
    own = [count for node, count in zip(graph.nodes, counts, strict=True) if id(node) in island]
    return any(count is None for count in own) or sum(count or 0 for count in own) >= smallest
