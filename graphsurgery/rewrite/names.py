"""Names that nothing else in a model has, for new tensors and nodes, and for those that move out of a body."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph.view import table


class Names:
    """The names in the model `root`: looked for at the first question, then kept."""

    def __init__(self, root: gs.Graph) -> None:
        self._root = root
        self._taken: set[str] | None = None
        self._numbers: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        """Return a name made from `hint` that nothing in the model has, and take it."""
        if self._taken is None:
            self._taken = graphs.tensor_names(self._root)
            self._taken.update(node.name for node in graphs.walk_nodes(self._root))
        name, number = hint or "tensor", self._numbers.get(hint, 1)
        while name in self._taken:
            number += 1
            name = f"{hint or 'tensor'}_{number}"
        self._numbers[hint] = number
        self._taken.add(name)
        return name

    def make_way(self, node: gs.Node, body: gs.Graph) -> None:
        """Rename tensors and nodes of `body`, which `node` holds, that have the name of another one outside `node`."""
        own = {tensor.name: tensor for inner in body.nodes for tensor in inner.outputs}
        read = (tensor for inner in graphs.walk_graphs(body) for tensor in graphs.tensors(inner))
        own |= {tensor.name: tensor for tensor in read if isinstance(tensor, gs.Constant)}
        inside = {id(inner) for held in graphs.subgraphs(node) for inner in graphs.walk_graphs(held)}
        outside = [graph for graph in graphs.walk_graphs(self._root) if id(graph) not in inside]
        reserved = {name for graph in outside for name in table(graph).reserved}
        clashing = {name for name, tensor in own.items() if name in reserved and not isinstance(tensor, gs.Constant)}
        others = (tensor for graph in outside for tensor in graphs.tensors(graph))
        clashing |= {other.name for other in others if own.get(other.name, other) is not other}
        for name in sorted(clashing - {""}):
            own[name].name = self.fresh(name)
        taken = {other.name for graph in outside for other in graph.nodes} - {""}
        for inner in body.nodes:
            if inner.name in taken:
                inner.name = self.fresh(inner.name)
