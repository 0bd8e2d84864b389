"""Where the operators of a graph are, so that a sweep comes to those that a pass looks at and passes over the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from heapq import heappop, heappush
from operator import is_

import onnx_graphsurgeon as gs

from graphsurgery.graph import holders, subgraphs


class ByOperator:
    """The nodes of `root` and of the bodies in it, by the names of their operators, as they were when it was made."""

    def __init__(self, root: gs.Graph) -> None:
        self._held: list[_Held] = []
        pending = [root]
        while pending:
            held = _Held(pending.pop())
            self._held.append(held)
            pending.extend(reversed(held.bodies))

    def __len__(self) -> int:
        """Return the number of nodes."""
        return sum(len(held.nodes) for held in self._held)

    def walk(self, ops: Collection[str] | None, changed: Sequence[gs.Node]) -> Iterator[tuple[gs.Graph, gs.Node]]:
        """Yield the nodes that have one of `ops` (None: all) with the graph that each is in, graphs outside first.

        The order is theirs in the graph. What is added to a graph meanwhile is left out; `changed`, to which nodes may
        be added, are those that have become other operators since: they come in their turn.
        """
        for place, held in enumerate(self._held):
            if not held.is_true():
                held = self._held[place] = _Held(held.graph)
            for node in held.nodes if ops is None else held.walk(ops, changed):
                yield held.graph, node


class _Held:
    """The nodes that one graph holds itself, and the bodies that they hold."""

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self.nodes = list(graph.nodes)
        self.bodies = [body for node in holders(self.nodes) for body in subgraphs(node)]
        self._places: dict[str, list[int]] = {}
        for place, node in enumerate(self.nodes):
            self._places.setdefault(node.op, []).append(place)

    def is_true(self) -> bool:
        """Whether the nodes are still those of the graph, in their order."""
        return len(self.nodes) == len(self.graph.nodes) and all(map(is_, self.nodes, self.graph.nodes))

    def walk(self, ops: Collection[str], changed: Sequence[gs.Node]) -> Iterator[gs.Node]:
        planned = sorted(place for op in ops for place in self._places.get(op, ()))
        late: list[int] = []  # a heap
        known: dict[int, int] = {}
        done: set[int] = set()
        at = seen = 0
        place = -1
        while True:
            if seen < len(changed):
                known = known or {id(node): place for place, node in enumerate(self.nodes)}
                done = done or set(planned)
                for node in changed[seen:]:
                    other = known.get(id(node), -1)
                    if other > place and other not in done and node.op in ops:
                        done.add(other)
                        heappush(late, other)
                seen = len(changed)
            if late and (at == len(planned) or late[0] < planned[at]):
                place = heappop(late)
            elif at < len(planned):
                place = planned[at]
                at += 1
            else:
                return
            yield self.nodes[place]
