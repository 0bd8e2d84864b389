"""What limits ask of an If, Loop or Scan: whether the target could run its bodies."""

from __future__ import annotations

from graphsurgery.graph import is_op, subgraphs, with_bodies
from graphsurgery.graph.reach import read
from graphsurgery.targets.asked import ABSENT, Asked, Fact


def bodies_taken(asked: Asked) -> Fact:
    """Return whether all nodes of its bodies are taken, and those outside whose outputs it reads."""
    bodies = subgraphs(asked.node)
    if not bodies:
        return ABSENT
    if asked.is_taken is None:
        return None
    inside = [node for body in bodies for node in body.nodes if not is_op(node, "Constant")]
    own = {id(node) for node in with_bodies(asked.node)}
    sources = [node for tensor in read(asked.node) if not asked.is_settled(tensor) for node in tensor.inputs]
    outside = {id(node): node for node in sources if id(node) not in own}
    return all(map(asked.is_taken, (*inside, *outside.values())))
