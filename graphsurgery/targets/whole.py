"""Limits of a whole graph, beyond which none of its nodes is taken."""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from graphsurgery.targets.groups import has_split_group
from graphsurgery.targets.schema import Rule, Scalar, Target

WHOLE_FACTS: dict[str, tuple[str, Callable[[gs.Graph, set[int], set[int]], Scalar]]] = {
    "captured": (
        "whether a node that isn't taken gets between taken ones that are joined, as what a body (If, Loop, Scan) "
        "reads from outside is overlooked",
        has_split_group,
    ),
}


def broken_by(graph: gs.Graph, live: set[int], taken: set[int], target: Target) -> tuple[Rule, str, Scalar] | None:
    """Return the limit that a whole graph breaks, its rule and what is seen; None where it keeps all.

    `taken` are the nodes (as ids) among the `live` ones that are within all other limits.
    """
    for name, allowed in target.whole.limits.items():
        seen = WHOLE_FACTS[name][1](graph, live, taken)
        if not allowed.holds(seen):
            return target.whole, name, seen
    return None
