"""Shapes and types of tensors, as ONNX's shape inference finds them. Weights are left out, so this costs little.

A shape that is written down of a tensor which a node writes is a claim: the file may have been made dynamic by hand, or
resized. What follows from the shapes of the model's inputs is known; `infer` tells that alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import GraphProto, ModelProto, TensorProto, TypeProto, ValueInfoProto

from graphsurgery import graph as graphs
from graphsurgery.errors import ModelError, first_line
from graphsurgery.graph.claims import forget_claims
from graphsurgery.graph.expansion import expanded, inferred_of
from graphsurgery.graph.outside import SHAPE_LIKE as SHAPE_LIKE
from graphsurgery.graph.outside import read_outside
from graphsurgery.graph.protos import bodies, graphs_in
from graphsurgery.graph.view import in_order, tensor_type, to_proto

# Elements of a tensor whose values ONNX may propagate one by one
LONG = 1 << 20
_SIZED = ("Range", "ConstantOfShape", "Expand", "Tile")


@dataclass(frozen=True)
class TensorType:
    """What inference knows of a tensor: None for what it does not. `other` is the type of a sequence or the like."""

    dtype: np.dtype[Any] | None = None
    shape: tuple[int | str | None, ...] | None = None
    other: TypeProto | None = None


UNKNOWN = TensorType()


def agree(one: Sequence[Any] | None, other: Sequence[Any] | None) -> bool:
    """Whether two shapes that are written down, or not, may be the same one."""
    if one is None or other is None:
        return True
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))


def infer_shapes(view: gs.Graph, folder: Path | None = None) -> None:
    """Write the shapes and types that ONNX's shape inference finds into the variables of `view`.

    A size that is written down stays where the model's inputs don't tell another one, and may tell of further ones.
    `folder` is where external data lies. Raises ModelError where the inference fails, or such data can't be read.
    """
    if _write_types(view, infer(to_proto(view, largest=SHAPE_LIKE, ordered=True), folder)):
        _write_types(view, _infer(to_proto(view, largest=SHAPE_LIKE, ordered=True), folder))


def _write_types(view: gs.Graph, inferred: ModelProto) -> bool:
    """Write what is inferred into the variables of `view`; return whether what is written there says more."""
    more = False
    for tensor, kind in types(view, inferred.graph):
        if graphs.producer(tensor) is None:
            continue  # what a body is given stays as the body has it
        tensor.dtype = tensor.dtype if kind.dtype is None else kind.dtype
        tensor.shape = _with_claims(kind.shape, tensor.shape)
        more = more or _sizes(tensor.shape) > _sizes(kind.shape)
    return more


def _with_claims(known: Sequence[Any] | None, written: Sequence[Any] | None) -> list[Any] | None:
    if known is None or written is None or len(known) != len(written):
        told = written if known is None else known
        return None if told is None else list(told)
    return [
        old if old is not None and not isinstance(new, int) else new for new, old in zip(known, written, strict=True)
    ]


def _sizes(shape: Sequence[Any] | None) -> int:
    """Return how many sizes `shape` tells, -1 where it does not even tell how many there are."""
    return -1 if shape is None else sum(isinstance(size, int) for size in shape)


def infer(proto: ModelProto, folder: Path | None) -> ModelProto:
    """Return `proto`, a copy that no model holds, with what ONNX's shape inference finds from its inputs alone.

    Raises as infer_shapes.
    """
    forget_claims(proto.graph)
    return _infer(proto, folder)


def _infer(proto: ModelProto, folder: Path | None) -> ModelProto:
    read_outside(proto, folder, SHAPE_LIKE)
    written_out = expanded(proto)
    try:
        inferring = partial(onnx.shape_inference.infer_shapes, data_prop=not _has_long_list(written_out))
        inferred = _with_lengths_left_open(written_out, inferring)
        return inferred if written_out is proto else inferred_of(proto, inferred)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"shape inference: {first_line(error)}") from error


def _with_lengths_left_open(proto: ModelProto, infer: Callable[[ModelProto], ModelProto]) -> ModelProto:
    """Let `infer` work on `proto` without the lengths of lists that are inputs and have more than LONG elements.

    As a shape, such a list is one of so many dimensions, for each of which ONNX would take memory.
    """
    lengths = {
        info.name: dims[0].dim_value
        for info in proto.graph.input
        if len(dims := info.type.tensor_type.shape.dim) == 1 and dims[0].dim_value > LONG
    }
    for info in (info for info in proto.graph.input if info.name in lengths):
        info.type.tensor_type.shape.dim[0].Clear()
    inferred = infer(proto)
    for info in (info for model in (proto, inferred) for info in model.graph.input if info.name in lengths):
        info.type.tensor_type.shape.dim[0].dim_value = lengths[info.name]
    return inferred


def _has_long_list(proto: ModelProto) -> bool:
    """Whether a whole-number tensor of rank 1 is declared, or made of a constant size, with more than LONG elements.

    ONNX propagates the values of such a one element by element, with 150 bytes for each, known or not.
    """
    for graph in graphs_in(proto.graph):
        for info in (*graph.input, *graph.value_info, *graph.output):
            dims = info.type.tensor_type.shape.dim
            if len(dims) == 1 and dims[0].dim_value > LONG:
                return True
        sizes = {name for node in graph.node if node.op_type in _SIZED for name in node.input}
        stored = [tensor for tensor in graph.initializer if tensor.name in sizes]
        stored += [
            a.t
            for n in graph.node
            if n.op_type == "Constant" and n.output[:1] and n.output[0] in sizes
            for a in n.attribute
            if a.HasField("t")
        ]
        for tensor in stored:
            if tensor.data_type in (TensorProto.INT32, TensorProto.INT64) and math.prod(tensor.dims) <= SHAPE_LIKE:
                try:
                    values = onnx.numpy_helper.to_array(tensor)
                except (ValueError, TypeError):  # its bytes don't fit its shape: inference says so
                    continue
                if values.size and values.max() > LONG:
                    return True
    return False


def types(view: gs.Graph, proto: GraphProto) -> Iterator[tuple[gs.Variable, TensorType]]:
    """Yield all tensors that the nodes of `view` write, with their types in `proto`, its form exported in order.

    The inputs of bodies come along: the nodes that hold the bodies write those.
    """
    for tensor, info in infos(view, proto):
        yield tensor, type_of(info)


def infos(view: gs.Graph, proto: GraphProto) -> Iterator[tuple[gs.Variable, ValueInfoProto | None]]:
    """Yield the same tensors, with what `proto` says of each, as it stands there."""
    pending = [(view, proto)]
    while pending:
        graph, exported = pending.pop()
        known = {info.name: info for info in (*exported.value_info, *exported.output)}
        if graph is not view:
            yield from zip(graph.inputs, exported.input, strict=True)
        for node, written in zip(in_order(graph), exported.node, strict=True):
            for tensor in node.outputs:
                if isinstance(tensor, gs.Variable) and tensor.name:
                    yield tensor, known.get(tensor.name)
            held = graphs.subgraphs(node)
            if held:
                pending.extend(zip(held, bodies(written), strict=True))


def type_of(info: ValueInfoProto | None) -> TensorType:
    """Return the type that `info` gives."""
    if info is None:
        return UNKNOWN
    dtype, shape = tensor_type(info)
    other = None if info.type.WhichOneof("value") in (None, "tensor_type") else info.type
    return TensorType(dtype, None if shape is None else tuple(shape), other)
