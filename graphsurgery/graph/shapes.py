"""Shapes and types of tensors, as ONNX's shape inference finds them. Weights are left out, so this costs little."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import ModelProto

from graphsurgery import graph as graphs
from graphsurgery.errors import ModelError, first_line
from graphsurgery.graph.protos import stored_outside
from graphsurgery.graph.view import tensor_type, to_proto

# Initializers above this many elements hold weights, which no shape depends on.
SHAPE_LIKE = 1024

Found = tuple[gs.Variable, np.dtype[Any] | None, Sequence[Any] | None]


def infer_shapes(view: gs.Graph, folder: Path | None = None) -> None:
    """Write the shapes and types that ONNX's shape inference finds into the variables of `view`; known ones stay.

    `folder` is where external data lies. Raises ModelError where the inference fails, or such data can't be read.
    """
    write(inferred(view, to_proto(view, largest=SHAPE_LIKE), folder))


def write(found: Iterator[Found]) -> None:
    """Write what was inferred into the tensors."""
    for tensor, kind, shape in found:
        if kind is not None:
            tensor.dtype, tensor.shape = kind, tensor.shape if shape is None else shape


def inferred(view: gs.Graph, proto: ModelProto, folder: Path | None) -> Iterator[Found]:
    """Yield what the nodes of `view` write, with type and shape; `proto` is its exported form, and is filled in.

    Raises ModelError as infer_shapes does, before anything is yielded.
    """
    bring_in(proto, folder, SHAPE_LIKE)
    try:
        answer = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:  # a Loop without its inputs gives the latter
        raise ModelError(f"shape inference: {first_line(error)}") from error
    return _types(view, answer.graph)


def bring_in(proto: ModelProto, folder: Path | None, largest: float = math.inf) -> None:
    """Read external data of up to `largest` elements into `proto`, which is a copy that no model holds.

    Raises ModelError for what can't be read.
    """
    if folder is None:
        return
    for tensor in stored_outside(proto):
        if math.prod(tensor.dims) <= largest:
            try:
                onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            except (OSError, ValueError, onnx.checker.ValidationError) as error:
                raise ModelError(f"tensor '{tensor.name}' can't be read: {first_line(error)}") from error
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")


def _types(view: gs.Graph, proto: onnx.GraphProto) -> Iterator[Found]:
    """Yield the tensors that the nodes of `view` write, with the types and shapes in `proto`, its exported form."""
    pending = [(view, proto)]
    while pending:
        graph, exported = pending.pop()
        known = {info.name: info for info in (*exported.value_info, *exported.output)}
        for node, written in zip(graph.nodes, exported.node, strict=True):
            for tensor in node.outputs:
                if isinstance(tensor, gs.Variable) and tensor.name in known:
                    yield (tensor, *tensor_type(known[tensor.name]))
            bodies = [b for a in written.attribute for b in ([a.g] if a.HasField("g") else a.graphs)]
            pending.extend(zip(graphs.subgraphs(node), bodies, strict=True))
