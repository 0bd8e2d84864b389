"""Where a target cuts a graph: at each node that it doesn't run and that stands between weights.

The weights before such a node and those behind it are in different stages. `weights` are those that the target runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.partition.weights import needed


@dataclass(frozen=True)
class ByTarget:
    """Says whether the target `takes` a node, and of how many multiply-adds the `smallest` part for it is.

    `takes(node, True)` is about the node once sizes are frozen that are open, `takes(node, False)` about it as it is.
    """

    takes: Callable[[gs.Node, bool], bool]
    smallest: int = 0


def stages_by_target(graph: gs.Graph, live: set[int], weights: set[int], lacking: set[int]) -> dict[int, int]:
    """Return the stage of every live node: how often the target's work is interrupted on the way to it, at most.

    A node that it lacks interrupts where weights of the same stage stand before it. Nodes between two weights of one
    stage are of that stage too, and none of them is lacking, so that they can be run at once.
    """
    stage: dict[int, int] = {}
    last: dict[int, int] = {}  # the highest stage of weights that a node depends on, itself included
    for node in graph.nodes:
        if id(node) not in live:
            continue
        before = [id(producer) for producer in needed(node) if id(producer) in live]
        reached = [max(stage[b], last[b] + 1) if b in lacking else stage[b] for b in before]
        stage[id(node)] = max(reached, default=0)
        own = stage[id(node)] if id(node) in weights else -1
        last[id(node)] = max((last[b] for b in before), default=-1) if own < 0 else own
    return stage
