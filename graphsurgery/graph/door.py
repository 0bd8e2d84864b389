"""What a model that somebody else made must be to be let in.

ONNX, ONNX Runtime and the passes take a file's word for what is checked here: a function that calls itself, or whose
calls double at each level, ends in a crash or never; so do sizes that no tensor has. All is counted without anything
being expanded. Whether the model is a valid one is the checker's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    TensorProto,
    TensorShapeProto,
)

from graphsurgery.errors import ModelError
from graphsurgery.graph.protos import bodies, walk_protos
from graphsurgery.graph.queries import STANDARD_DOMAINS

MAX_BYTES = 1 << 31  # what protobuf can read
MAX_NODES = 1_000_000  # functions expanded
MAX_CALLS = 100  # functions that call functions, one inside the other
MAX_SIZE = (1 << 31) - 1  # of one dimension
MAX_ELEMENTS = 1 << 40
MAX_RANK = 32  # NumPy stores 64, but walks over 32

_GRAPH, _GRAPHS = AttributeProto.GRAPH, AttributeProto.GRAPHS
_Key = tuple[str, str, str]


def admit(proto: ModelProto, place: str) -> None:
    """Raise ModelError for a model that no command can work on; `place` says in the message which it is."""
    for message in _messages(proto, place):
        if isinstance(message, TensorProto):
            _check_element_type(message.data_type, f"{place}: tensor '{message.name}'")
            _check_sizes(message.dims, f"{place}: tensor '{message.name}'")
            if any(size < 0 for size in message.dims):
                raise ModelError(f"{place}: tensor '{message.name}' has the shape {list(message.dims)[:8]}")
        elif isinstance(message, TensorShapeProto):
            _check_sizes([dim.dim_value for dim in message.dim if dim.HasField("dim_value")], place)
        elif isinstance(message, AttributeProto):
            if (message.HasField("g"), bool(message.graphs)) != (message.type == _GRAPH, message.type == _GRAPHS):
                raise ModelError(f"{place}: attribute '{message.name}' is of one type and holds another")
            if message.ref_attr_name and (message.HasField("g") or message.graphs):
                raise ModelError(f"{place}: attribute '{message.name}' stands for one of a function and holds a body")
        elif isinstance(message, OperatorSetIdProto):
            if abs(message.version) > MAX_SIZE:
                raise ModelError(f"{place}: domain '{message.domain}' has no version {message.version}")
        else:
            _check_element_type(getattr(message, "elem_type", 0), place)
    _check_calls(proto, place)
    for top in (proto.graph, *proto.functions):
        for graph in (top, *(body for node in walk_protos(top) for body in bodies(node))):
            _check_outputs(graph, place)


def _messages(proto: ModelProto, place: str) -> Iterator[Any]:
    """Yield each message of `proto` that may be at fault. Raises ModelError where text is not UTF-8."""
    pending: list[Any] = [proto]
    kinds: dict[FieldDescriptor, tuple[bool, bool, bool]] = {}
    while pending:
        message = pending.pop()
        if isinstance(message, TensorProto):  # not field by field: that would copy the weights
            _require_text((message.name, message.doc_string), message, place)
            pending += [*message.external_data, *message.metadata_props]
            yield message
            continue
        for field, value in message.ListFields():
            if field not in kinds:
                text = field.type == FieldDescriptor.TYPE_STRING
                kinds[field] = (field.message_type is not None, text, field.is_repeated)
            inner, text, repeated = kinds[field]
            if inner and repeated:
                pending.extend(value)
            elif inner:
                pending.append(value)
            elif text:
                _require_text(value if repeated else (value,), message, place)
            elif field.name == "elem_type":
                yield message
        if isinstance(message, TensorShapeProto | AttributeProto | OperatorSetIdProto):
            yield message


def _require_text(values: Iterable[Any], message: Any, place: str) -> None:
    for value in values:
        if not isinstance(value, str):  # protobuf gives what it can't decode as bytes
            kind = type(message).__name__.removesuffix("Proto")
            raise ModelError(f"{place}: the text {value!r} in a {kind} is not UTF-8, as ONNX demands; rename it")


def _check_element_type(kind: int, place: str) -> None:
    if kind not in TensorProto.DataType.values():
        raise ModelError(f"{place}: element type {kind} is not one of this onnx ({onnx.__version__}); update it")


def _check_sizes(sizes: Iterable[int], place: str) -> None:
    sizes = list(sizes)
    if len(sizes) > MAX_RANK:
        raise ModelError(f"{place}: a tensor has {len(sizes)} dimensions; {MAX_RANK} are the most")
    if any(size > MAX_SIZE for size in sizes) or math.prod(map(abs, sizes)) > MAX_ELEMENTS:
        raise ModelError(f"{place}: a tensor of the shape {sizes[:8]} is larger than any that can be worked on")


def _check_outputs(graph: GraphProto | FunctionProto, place: str) -> None:
    """Raise ModelError where two nodes of `graph` write one tensor, or one of ONNX's operators writes none."""
    written: set[str] = set()
    for node in graph.node:
        named = [name for name in node.output if name]
        if not node.output and node.domain in STANDARD_DOMAINS:
            called = node.name or f"one that reads {', '.join(node.input[:3]) or 'nothing'}"
            raise ModelError(f"{place}: node {called} ({node.op_type}) has no output; remove it")
        twice = next((name for name in named if name in written), None)
        written.update(named)
        if twice is not None or len(set(named)) < len(named):
            raise ModelError(
                f"{place}: '{twice or named[0]}' is written twice, and a tensor is written once; rename one"
            )


def _check_calls(proto: ModelProto, place: str) -> None:
    """Count the nodes that `proto` has when each call of a function is replaced by what the function holds."""
    functions = {_key(function): function for function in proto.functions}
    if len(functions) != len(proto.functions):
        raise ModelError(f"{place}: two of its functions have one name; give each a name of its own")
    nodes = {key: walk_protos(onnx.GraphProto(node=function.node)) for key, function in functions.items()}
    calls = {key: [called for node in held if (called := _key(node)) in functions] for key, held in nodes.items()}
    sizes: dict[_Key, int] = {}
    depths: dict[_Key, int] = {}
    for root in functions:
        path = {root: iter(calls[root])}
        while path:
            key, left = next(reversed(path.items()))
            inner = next((each for each in left if each not in sizes), None)
            if inner is None:
                sizes[key] = len(nodes[key]) + sum(sizes[each] for each in calls[key])
                depths[key] = 1 + max((depths[each] for each in calls[key]), default=0)
                path.popitem()
            elif inner in path:
                cycle = [*list(path)[list(path).index(inner) :], inner]
                names = " > ".join(f"{domain}::{name}" for domain, name, _ in cycle)
                raise ModelError(f"{place}: a function calls itself, so that it can't be expanded: {names}")
            else:
                path[inner] = iter(calls[inner])
    main = walk_protos(proto.graph)
    total = len(main) + sum(sizes.get(_key(node), 0) for node in main)
    if total > MAX_NODES:
        more = ", its functions expanded" if functions else ""
        raise ModelError(f"{place}: {total} nodes{more}; {MAX_NODES} are the most that can be worked on")
    if depths and max(depths.values()) > MAX_CALLS:
        raise ModelError(f"{place}: its functions call each other {max(depths.values())} deep; {MAX_CALLS} is the most")


def _key(named: FunctionProto | NodeProto) -> _Key:
    name = named.name if isinstance(named, FunctionProto) else named.op_type
    return "" if named.domain == "ai.onnx" else named.domain, name, named.overload
