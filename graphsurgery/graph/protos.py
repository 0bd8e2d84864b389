"""A ModelProto as it stands: its nodes with those in bodies, and the tensors that lie in other files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from heapq import heappop, heappush
from itertools import count
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import onnx
from onnx import ModelProto, TensorProto

from graphsurgery.errors import ModelError

_GRAPH, _GRAPHS = onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS


def walk_protos(graph: onnx.GraphProto | onnx.FunctionProto) -> list[onnx.NodeProto]:
    """Return the nodes of `graph`, or of a function, and of the bodies inside it."""
    nodes: list[onnx.NodeProto] = []
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [graph]
    while pending:
        current = pending.pop()
        nodes += current.node
        for node in current.node:
            if node.attribute:
                pending += bodies(node)
    return nodes


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs that `node` holds as attributes."""
    found = []
    for attribute in node.attribute:
        kind = attribute.type  # the door admits no other than this tells; to look for what it holds takes long
        if kind == _GRAPH:
            found.append(attribute.g)
        elif kind == _GRAPHS:
            found.extend(attribute.graphs)
    return found


def holders(graph: onnx.GraphProto | onnx.FunctionProto) -> list[onnx.NodeProto]:
    """Return the nodes of `graph` and of the bodies inside it that hold bodies, in the order of `walk_protos`."""
    found: list[onnx.NodeProto] = []
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [graph]
    while pending:
        for node in pending.pop().node:
            held = bodies(node)
            if held:
                found.append(node)
                pending.extend(held)
    return found


def graphs_in(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """Return `graph` and the bodies inside it."""
    return [graph, *(body for node in holders(graph) for body in bodies(node))]


def domain_of(domain: str) -> str:
    """Return a domain by the first of ONNX's names for its own, which is none."""
    return "" if domain == "ai.onnx" else domain


def opset_of(holder: ModelProto | onnx.FunctionProto) -> int:
    """Return the version of the standard operator set that a model or a function uses."""
    return next((entry.version for entry in holder.opset_import if domain_of(entry.domain) == ""), 1)


def drop_unused_imports(model: ModelProto) -> None:
    """Take away the operator sets that no node and no function of `model` uses; ONNX's own stays."""
    used = {""} | {domain_of(node.domain) for node in walk_protos(model.graph)}
    used |= {domain_of(entry.domain) for function in model.functions for entry in function.opset_import}
    replace_items(model.opset_import, [entry for entry in model.opset_import if domain_of(entry.domain) in used])


def replace_items(field: Any, items: Sequence[Any]) -> None:
    """Put `items`, which may stand in it, into a repeated field."""
    copies = [type(item)() for item in items]
    for copied, item in zip(copies, items, strict=True):
        copied.CopyFrom(item)
    del field[:]
    field.extend(copies)


def tell_nodes_apart(proto: ModelProto) -> list[str]:
    """Give a fresh name to each node that has the one of a node before it; return the names that were shared.

    ONNX allows two nodes of one name in a graph, ONNX Runtime doesn't.
    """
    shared: dict[str, None] = {}
    tops = [proto.graph, *proto.functions]
    for graph in (*tops, *(body for top in tops for node in walk_protos(top) for body in bodies(node))):
        taken = {node.name for node in graph.node}
        numbers: dict[str, Iterator[int]] = {}
        for node in (node for node in graph.node if node.name):
            if node.name not in numbers:
                numbers[node.name] = count(2)
                continue
            shared[node.name] = None
            node.name = next(f"{node.name}_{n}" for n in numbers[node.name] if f"{node.name}_{n}" not in taken)
    return list(shared)


def unnamed_outputs(proto: ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes of `proto` that have any number of outputs, such as Split, and leave the name of one out.

    The checker allows it, and ONNX Runtime (1.32) crashes at it.
    """
    nodes = (node for top in (proto.graph, *proto.functions) for node in walk_protos(top))
    return [node for node in nodes if "" in node.output and _has_any_number(node.op_type, domain_of(node.domain))]


@cache
def _has_any_number(op_type: str, domain: str) -> bool:
    if not onnx.defs.has(op_type, domain):
        return False
    outputs = onnx.defs.get_schema(op_type, domain).outputs
    return bool(outputs) and outputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic


def name_outputs(proto: ModelProto) -> list[str]:
    """Give a fresh name to each output that `unnamed_outputs` are about; return the names of their nodes."""
    found = unnamed_outputs(proto)
    taken = {name for top in (proto.graph, *proto.functions) for node in walk_protos(top) for name in node.output}
    taken |= {info.name for info in proto.graph.input} | stored_names(proto.graph) if found else set()
    for node in found:
        for place, name in enumerate(node.output):
            if not name:
                hint = f"{node.name or node.op_type}_{place}"
                node.output[place] = next(
                    each for n in count(1) if (each := hint if n == 1 else f"{hint}_{n}") not in taken
                )
                taken.add(node.output[place])
    return [node.name or node.op_type for node in found]


def sort_nodes(proto: ModelProto) -> bool:
    """Put each node behind what it reads, in bodies and functions too, as ONNX wants it; return whether one moved.

    A graph with a circle stays as it is.
    """
    tops = [proto.graph, *proto.functions]
    inner = [body for top in tops for node in walk_protos(top) for body in bodies(node)]
    return any([_sort(graph) for graph in (*reversed(inner), *tops)])  # bodies first: an outer one copies its nodes


def _sort(graph: onnx.GraphProto | onnx.FunctionProto) -> bool:
    writer = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    reads = [{writer[name] for name in names_read(node) if name in writer} for node in graph.node]
    if all(needed < index for index, needs in enumerate(reads) for needed in needs):
        return False
    readers: list[list[int]] = [[] for _ in reads]
    for index, needs in enumerate(reads):
        for needed in needs:
            readers[needed].append(index)
    ready, order = [index for index, needs in enumerate(reads) if not needs], []
    while ready:  # of those that could come next, the one that came first
        order.append(heappop(ready))
        for index in readers[order[-1]]:
            reads[index].discard(order[-1])
            if not reads[index]:
                heappush(ready, index)
    if len(order) < len(reads):
        return False
    nodes = [graph.node[index] for index in order]
    del graph.node[:]
    graph.node.extend(nodes)
    return True


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what `node` reads, also from inside its bodies."""
    yield from node.input
    for body in bodies(node):
        yield from (info.name for info in body.output)
        for inner in walk_protos(body):
            yield from inner.input
            yield from (info.name for held in bodies(inner) for info in held.output)


def stored_names(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the initializers of `graph`; an input that has one of them need not be given."""
    return {tensor.name for tensor in graph.initializer} | {sparse.values.name for sparse in graph.sparse_initializer}


def required_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that must be given; before IR version 4 every initializer was one too."""
    stored = stored_names(graph)
    return [info for info in graph.input if info.name not in stored]


def declared_shape(info: onnx.ValueInfoProto) -> list[int | str | None] | None:
    """Return the shape that a graph declares: None or a name for a size that is open, None where the rank is."""
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim]


def stored_outside(proto: ModelProto) -> list[TensorProto]:
    """Return the tensors of `proto` whose values lie in other files."""
    tops = [proto.graph, *(graph for info in proto.training_info for graph in (info.initialization, info.algorithm))]
    tops += [onnx.GraphProto(node=function.node) for function in proto.functions]
    nodes = [node for top in tops for node in walk_protos(top)]
    found: list[TensorProto] = []
    for graph in [*tops, *(body for node in nodes for body in bodies(node))]:
        found += graph.initializer
        found += _pieces(graph.sparse_initializer)
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        found += [*attribute.tensors, *_pieces(attribute.sparse_tensors)]
        found += [attribute.t] if attribute.HasField("t") else []
        found += _pieces([attribute.sparse_tensor]) if attribute.HasField("sparse_tensor") else []
    return [tensor for tensor in found if tensor.data_location == TensorProto.EXTERNAL]


def without_initializers(proto: ModelProto) -> ModelProto:
    """Return `proto` without the initializers of its main graph, so that none of their values is copied."""
    bare = ModelProto()
    for descriptor, value in proto.ListFields():
        if descriptor.name == "graph":
            for inner, content in value.ListFields():
                if inner.name == "initializer":
                    continue
                if inner.is_repeated:
                    getattr(bare.graph, inner.name).extend(content)
                else:
                    setattr(bare.graph, inner.name, content)
        elif descriptor.is_repeated:
            getattr(bare, descriptor.name).extend(value)
        else:
            setattr(bare, descriptor.name, value)
    return bare


def without_values(tensor: TensorProto) -> TensorProto:
    """Return `tensor` without raw_data, which may be hundreds of MB; its other ways to hold values are kept."""
    bare = TensorProto()
    for descriptor, value in tensor.ListFields():
        if descriptor.is_repeated:
            getattr(bare, descriptor.name).extend(value)
        elif descriptor.message_type is not None:
            getattr(bare, descriptor.name).CopyFrom(value)
        elif descriptor.name != "raw_data":
            setattr(bare, descriptor.name, value)
    return bare


def types_by_name(graph: onnx.GraphProto) -> dict[str, onnx.ValueInfoProto]:
    """Return what is written down of the type of each tensor, but of those that two bodies give to different ones."""
    found: dict[str, onnx.ValueInfoProto] = {}
    doubtful = set()
    for inner in graphs_in(graph):
        infos = [*inner.input, *inner.value_info, *inner.output]
        infos += [onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in inner.initializer]
        for info in infos:
            other = found.setdefault(info.name, info)
            if other.type != info.type and inner is not graph:
                doubtful.add(info.name)
    return {name: info for name, info in found.items() if name not in doubtful and info.type.WhichOneof("value")}


def check_location(tensor: TensorProto, folder: Path, place: str) -> None:
    """Raise ModelError unless the external data of `tensor` lies in a file inside `folder`, symbolic links followed."""
    locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
    if len(locations) != 1:  # of several, one reader takes the first and another the last
        raise ModelError(f"{place}: the external data of tensor '{tensor.name}' has {len(locations)} locations, not 1")
    location = locations[0]
    try:
        outside = (
            not location
            or PurePosixPath(location).is_absolute()
            or PureWindowsPath(location).is_absolute()
            or bool(PureWindowsPath(location).drive)
            or ".." in PureWindowsPath(location).parts
            or not (folder / location).resolve().is_relative_to(folder.resolve())
        )
        missing = not (folder / location).is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL in it, a loop of symbolic links
        raise ModelError(f"{place}: the external data of tensor '{tensor.name}' is nowhere: {error}") from error
    if outside:
        raise ModelError(f"{place}: tensor '{tensor.name}' points outside the model's folder ({location!r})")
    if missing:
        raise ModelError(f"{place}: the external data {location!r} of tensor '{tensor.name}' is missing")
    span = {entry.key: entry.value for entry in tensor.external_data if entry.key in ("offset", "length")}
    whole = all(text.isascii() and text.isdigit() and len(text) < 20 for text in span.values())
    end = sum(map(int, span.values())) if whole else 0
    if not whole or end > (size := (folder / location).stat().st_size):
        seen = ", ".join(f"{key} {text}" for key, text in span.items())
        has = f", which has {size} bytes" if whole else ""
        raise ModelError(f"{place}: the external data of tensor '{tensor.name}' is not in {location!r}{has}: {seen}")


def _pieces(sparse: Iterable[onnx.SparseTensorProto]) -> list[TensorProto]:
    return [piece for tensor in sparse for piece in (tensor.values, tensor.indices)]
