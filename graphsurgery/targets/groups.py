"""The groups that a provider of ONNX Runtime joins taken nodes to, where it forgets what bodies read.

    a -> CPU -> b(If, whose body reads it) -> c      a, b and c in one group, and the CPU's node between them

The partitioner that plug-in providers carry goes through the nodes as their inputs get ready. It counts the inputs of a
node only, but ticks off those that its bodies read as well, so that an If, Loop or Scan can come before what it needs.
A group that isn't convex makes ONNX Runtime refuse all groups of the graph (`CreateSupportedPartitionNodeGroups` of
onnxruntime-qnn, `PluginExecutionProvider::GetCapability` of ONNX Runtime).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import onnx_graphsurgeon as gs

from graphsurgery.graph.queries import subgraphs
from graphsurgery.graph.reach import read


def has_split_group(graph: gs.Graph, live: set[int], taken: set[int]) -> bool:
    """Whether one of the groups of the nodes `taken` (as ids) among the `live` ones isn't convex."""
    nodes = [node for node in graph.nodes if id(node) in live]
    if not any(subgraphs(node) for node in nodes):
        return False  # inputs are all that a node reads, and the groups are right
    place = {id(tensor): at for at, node in enumerate(nodes) for tensor in node.outputs}
    inputs = [[place[id(tensor)] for tensor in node.inputs if id(tensor) in place] for node in nodes]
    captured = [[place[at] for at in _captured(node) if at in place] for node in nodes]
    groups = _groups(inputs, captured, [id(node) in taken for node in nodes])
    needed = [[*own, *inner] for own, inner in zip(inputs, captured, strict=True)]
    return any(_is_split(group, needed) for group in groups)


def _captured(node: gs.Node) -> set[int]:
    """Return the tensors (as ids) that the bodies of a node read and that aren't its inputs."""
    own = {id(tensor) for tensor in node.inputs}
    return {id(tensor) for tensor in read(node)} - own if subgraphs(node) else set()


def _groups(
    inputs: Sequence[Sequence[int]], captured: Sequence[Sequence[int]], taken: Sequence[bool]
) -> list[list[int]]:
    """Return the groups, of nodes by their places; `inputs` and `captured` are the nodes that each one needs.

    A node that isn't taken and needs something of the group at hand waits until that one is closed.
    """
    open_inputs = [len(each) for each in inputs]
    readers: list[list[int]] = [[] for _ in inputs]
    for at, (own, inner) in enumerate(zip(inputs, captured, strict=True)):
        for before in (*own, *inner):
            readers[before].append(at)
    groups: list[list[int]] = []
    group: list[int] = []
    border: set[int] = set()
    ready, waiting = deque(at for at, count in enumerate(open_inputs) if not count), deque[int]()
    while ready or waiting:
        if not ready:
            groups.append(group)
            group, border, ready, waiting = [], set(), waiting, deque()
        at = ready.popleft()
        if taken[at]:
            group.append(at)
        elif at in border:
            waiting.append(at)
            continue
        for reader in readers[at]:
            if taken[at]:
                border.add(reader)
            if open_inputs[reader]:
                open_inputs[reader] -= 1
                if not open_inputs[reader]:
                    ready.append(reader)
    return [*groups, group]


def _is_split(group: Sequence[int], needed: Sequence[Sequence[int]]) -> bool:
    """Whether a node outside of a group needs what it gives, and gives what the group needs."""
    members = set(group)
    behind: set[int] = set()  # nodes outside that need something of the group
    for at, before in enumerate(needed):
        if at in members:
            if not behind.isdisjoint(before):
                return True
        elif any(each in members or each in behind for each in before):
            behind.add(at)
    return False
