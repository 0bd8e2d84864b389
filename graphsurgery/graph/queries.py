"""Questions about a gs.Graph, and edits that keep both sides of its synchronised lists right.

Everything here is iterative and linear in the size of the graph.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.graph.view.origin import GraphTable, keep, table

STANDARD_DOMAINS = (None, "", "ai.onnx")
# Two equal ones give different values; Dropout is one in training mode.
RANDOM_OPS = frozenset(
    ["Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]
)
_LONG_LIST = 1024
_changes = 0
_last_found: dict[int, int] = {}  # by the id of a long list; one that is wrong costs a search


def walk_graphs(graph: gs.Graph) -> Iterator[gs.Graph]:
    """Yield `graph` and every graph inside it (If, Loop and Scan bodies), outer ones first."""
    pending = [graph]
    while pending:
        current = pending.pop()
        yield current
        for node in reversed(holders(current.nodes)):
            pending.extend(reversed(subgraphs(node)))


def walk_nodes(graph: gs.Graph) -> Iterator[gs.Node]:
    """Yield every node of `graph` and of the graphs inside it."""
    for inner in walk_graphs(graph):
        yield from inner.nodes


def holders(nodes: Iterable[gs.Node]) -> list[gs.Node]:
    """Return those of `nodes` that hold graphs."""
    return [node for node in nodes if node.attrs and subgraphs(node)]


def subgraphs(node: gs.Node) -> list[gs.Graph]:
    """Return the graphs that `node` holds as attributes, alone or in lists."""
    found: list[gs.Graph] = []
    for value in node.attrs.values():
        if type(value) is int:  # most are, and each step asks this of each node
            continue
        if isinstance(value, gs.Graph):
            found.append(value)
        elif isinstance(value, list) and value and isinstance(value[0], gs.Graph):  # ONNX's lists are of one type
            found.extend(value)
    return found


def is_op(node: gs.Node | None, *ops: str) -> bool:
    """Whether `node` is one of the standard ONNX operators `ops`; a custom domain's op of the same name is not."""
    return node is not None and node.op in ops and node.domain in STANDARD_DOMAINS


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """Return the node that writes `tensor`; None for inputs, initializers and omitted tensors."""
    return tensor.inputs[0] if tensor.inputs else None


def consumers(tensor: gs.Tensor) -> list[gs.Node]:
    """Return the nodes that read `tensor`, those inside If and Loop bodies included, each once per reading."""
    return list(tensor.outputs)


def is_graph_output(tensor: gs.Tensor, graph: gs.Graph) -> bool:
    """Whether `tensor` is an output of `graph` itself, not of a graph around or inside it."""
    return any(output is tensor for output in graph.outputs)


def is_constant(tensor: gs.Tensor) -> bool:
    """Whether `tensor` is an initializer or a Constant node's output; its values are not read for that."""
    return isinstance(tensor, gs.Constant) or is_op(producer(tensor), "Constant")


def constant(tensor: gs.Tensor) -> np.ndarray | None:
    """Return the value of `tensor` when it can't change: an initializer or a Constant node's output; else None.

    An initializer that is also a graph input is a default that a caller may override, so it is not constant. The
    value of a Constant node that holds strings or a sparse tensor is not given.
    """
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values)
    node = producer(tensor)
    if node is None or not is_op(node, "Constant"):
        return None
    for name, value in node.attrs.items():
        if name == "value" and isinstance(value, gs.Constant):
            return np.asarray(value.values)
        if name in ("value_float", "value_floats"):
            return np.asarray(value, dtype=np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, dtype=np.int64)
    return None


def has_default(tensor: gs.Tensor, graph: gs.Graph) -> bool:
    """Whether `tensor` is an input of `graph` that need not be given: an initializer of its name is its default."""
    if not any(tensor is given for given in graph.inputs):
        return False
    entry = table(graph)
    sparse = (stored.values.name for stored in entry.proto.sparse_initializer)
    return tensor.name in entry.defaults or tensor.name in sparse


def static_shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """Return the shape of `tensor` when every dimension is a known number, else None."""
    shape = tensor.shape
    if shape is None or not all(isinstance(size, int | np.integer) and size >= 0 for size in shape):
        return None
    return tuple(int(size) for size in shape)


def attribute(node: gs.Node, name: str, default: Any) -> Any:
    """Return the attribute `name` of `node`, or `default` where it is not written out."""
    return node.attrs.get(name, default)


def tensors(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """Yield what `graph` takes, gives out, and what its nodes read and write; not what the graphs inside it do."""
    yield from (*graph.inputs, *graph.outputs)
    for node in graph.nodes:
        yield from (*node.inputs, *node.outputs)


def tensor_names(graph: gs.Graph) -> set[str]:
    """Return the names of all tensors in `graph` and in the graphs inside it."""
    names: set[str] = set()
    for inner in walk_graphs(graph):
        names.update(table(inner).reserved)  # initializers and types that no node has to do with
        names.update(tensor.name for tensor in tensors(inner))
    names.discard("")
    return names


def changes() -> int:
    """Return how often detach, set_inputs or set_outputs was called, for any graph: a pass may go past its Editor."""
    return _changes


def detach(node: gs.Node) -> None:
    """Cut `node` loose from its tensors; drop_unused() then takes it out of its graph.

    graphsurgeon's synchronised lists remove by equality, which compares whole nodes and may pick a twin; this
    removes by identity.
    """
    _count_change()
    for tensor in node.inputs:
        _discard(tensor.outputs, node)
    for tensor in node.outputs:
        _discard(tensor.inputs, node)
    list.clear(node.inputs)
    list.clear(node.outputs)


def set_inputs(node: gs.Node, tensors: Sequence[gs.Tensor]) -> None:
    """Let `node` read `tensors`, by identity, both sides of the synchronised lists kept."""
    _count_change()
    tensors = list(tensors)  # may be node.inputs itself
    for tensor in node.inputs:
        _discard(tensor.outputs, node)
    list.clear(node.inputs)
    list.extend(node.inputs, tensors)
    for tensor in tensors:
        list.append(tensor.outputs, node)


def set_outputs(node: gs.Node, tensors: Sequence[gs.Tensor]) -> None:
    """Let `node` write `tensors`, by identity, both sides of the synchronised lists kept."""
    _count_change()
    tensors = list(tensors)  # may be node.outputs itself
    for tensor in node.outputs:
        _discard(tensor.inputs, node)
    list.clear(node.outputs)
    list.extend(node.outputs, tensors)
    for tensor in tensors:
        list.append(tensor.inputs, node)


def _count_change() -> None:
    global _changes
    _changes += 1


def _discard(nodes: Any, node: gs.Node) -> None:
    """Take `node` out of a synchronised list once, by identity, without touching the other side.

    A constant may have a reader for every node of a large graph, and a sweep takes each out. So of a long list the last
    one fills the gap, for to close it moves all behind it, and the search begins where the last one ended: a sweep
    comes to the readers in their order, or in that of those that have filled gaps, backwards.
    """
    if len(nodes) < _LONG_LIST:
        for index, other in enumerate(nodes):
            if other is node:
                list.__delitem__(nodes, index)
                return
        return
    near = min(_last_found.get(id(nodes), 0), len(nodes) - 1)
    for distance in range(len(nodes)):
        for index in (near + distance, near - distance):
            if 0 <= index < len(nodes) and nodes[index] is node:
                _last_found[id(nodes)] = index
                last = list.pop(nodes)
                if index < len(nodes):
                    list.__setitem__(nodes, index, last)
                return


def extract(
    graph: gs.Graph, outputs: Sequence[gs.Tensor], inputs: Collection[str], *, with_defaults: bool = False
) -> gs.Graph:
    """Return a graph of the nodes that `outputs` depend on, stopping at the tensors named in `inputs`.

    Nodes and tensors are shared with `graph`, which is not changed: export the result, don't edit it. Graph inputs
    that are reached become inputs too, `with_defaults` with those that they have; else each has to be given. A body's
    own tensor never is one of `inputs`, whatever its name.
    """
    ends: dict[str, gs.Tensor] = {}
    sources: set[str] = set()  # tensors that no node writes
    taken: set[int] = set()
    pending = list(outputs)
    seen: set[int] = set()
    own_inputs = {id(t) for t in graph.inputs}
    top = {id(node) for node in graph.nodes}
    while pending:
        tensor = pending.pop()
        if id(tensor) in seen or not tensor.name:
            continue
        seen.add(id(tensor))
        if tensor.name in inputs or id(tensor) in own_inputs:
            ends[tensor.name] = tensor
            continue
        if not tensor.inputs:
            sources.add(tensor.name)
        for node in tensor.inputs:
            if id(node) in taken or id(node) not in top:
                continue
            taken.add(id(node))
            for body in (body for held in subgraphs(node) for body in walk_graphs(held)):
                seen.update(id(t) for t in (*body.inputs, *(t for inner in body.nodes for t in inner.outputs)))
                pending.extend(body.outputs)
            for inner in with_bodies(node):
                pending.extend(inner.inputs)
    order = {name: index for index, name in enumerate(t.name for t in graph.inputs)}
    part = gs.Graph(
        nodes=[node for node in graph.nodes if id(node) in taken],
        inputs=sorted(ends.values(), key=lambda t: (order.get(t.name, len(order)), t.name)),
        outputs=list(outputs),
        name=graph.name,
        opset=graph.opset,
        import_domains=graph.import_domains,
        ir_version=graph.ir_version,
    )
    entry = table(graph)
    overridable = ends if with_defaults else {}
    kept = sources.union(overridable)
    sparse = [tensor for tensor in entry.proto.sparse_initializer if tensor.values.name in kept]
    defaults = {name: tensor for name, tensor in entry.defaults.items() if name in overridable}
    bare = onnx.GraphProto(sparse_initializer=sparse)
    keep(part, GraphTable(entry.base, dict(entry.metadata), proto=bare, defaults=defaults))
    return part


def with_bodies(node: gs.Node) -> Iterator[gs.Node]:
    """Yield `node` and every node in its bodies."""
    yield node
    for body in subgraphs(node):
        yield from walk_nodes(body)
