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
from graphsurgery.errors import ModelError
from graphsurgery.partition.boundaries import Cut, boundaries, host_positions, sink
from graphsurgery.partition.islands import Network, Target
from graphsurgery.partition.stages import CutPoints, find_cuts, stages
from graphsurgery.partition.weights import live_nodes, refuse_hidden_weights, refuse_open_weights, weighted_nodes

_ANY = Target()


def find_cut(
    graph: gs.Graph, at: str | CutPoints, include: Sequence[Collection[str]] = (), target: Target = _ANY
) -> Cut:
    """Find the parts of `graph`, whose shapes are known, cut at `at`; unused nodes go, the rest is sorted.

    `include[i]` names operators behind the last weight that the i-th accelerator part takes along. An operator of
    another domain is named by its type, if no standard one is called so, or as domain.Type. Raises InputError for an
    `at` that is neither in the graph nor an operator of ONNX, and for weights that are inputs or inside a function,
    ModelError when a node that no accelerator runs stands between the weights of one stage.
    """
    at = CutPoints.of(at) if isinstance(at, str) else at
    graphs.drop_unused(graph)
    graphs.sort(graph)
    live = live_nodes(graph)
    weights = weighted_nodes(graph, live, at.without_decode)
    cuts = find_cuts(graph, at, weights, live)
    target.refuse_unknown(graph)
    refuse_hidden_weights(graph)
    refuse_open_weights(graph)
    network = Network(graph, live, weights, cuts, stages(graph, cuts, live))
    weighted = sorted({stage for node, stage in network.stages.items() if node in weights})
    if not weighted:
        raise ModelError(
            f"graph '{graph.name}': no Conv, ConvTranspose, Gemm or MatMul with constant weights to cut by"
        )
    found = [
        network.island(stage, include[index] if index < len(include) else (), at, target)
        for index, stage in enumerate(weighted)
    ]
    islands, behind = [island for island, _ in found], [taken for _, taken in found]
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
    taken = set().union(*behind)
    cut.behind = [[n for n in graph.nodes if id(n) in taken and part_of[id(n)] == part] for part in range(len(kinds))]
    return cut
