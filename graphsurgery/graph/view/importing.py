"""From a ModelProto to the view."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from graphsurgery import graph as graphs
from graphsurgery.graph.collection import no_collection
from graphsurgery.graph.view import making
from graphsurgery.graph.view.origin import (
    GraphTable,
    Scope,
    StoredValues,
    VariableOrigin,
    keep,
    numpy_dtype,
    plain_value,
    table,
)

_NOTHING_SAID = VariableOrigin(None, None, None)  # what the view keeps of most tensors


def to_graph(model: ModelProto, folder: Path | None = None) -> gs.Graph:
    """Return the view of `model`; `folder` is where its external data lies."""
    with no_collection():
        return _to_graph(model, folder)


def _to_graph(model: ModelProto, folder: Path | None) -> gs.Graph:
    view = _import_graph(model.graph, {}, folder)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    view.opset = versions.get("", versions.get("ai.onnx", 1))
    view.import_domains = [onnx.helper.make_opsetid(entry.domain, entry.version) for entry in model.opset_import]
    view.ir_version = model.ir_version
    view.producer_name, view.producer_version = model.producer_name, model.producer_version
    table(view).metadata = {entry.key: entry.value for entry in model.metadata_props}
    for inner in graphs.walk_graphs(view):
        inner.opset, inner.import_domains = view.opset, view.import_domains
        inner.ir_version = view.ir_version
        inner._functions = view._functions
        table(inner).base = model
    return view


def _import_graph(proto: GraphProto, outer: Scope, folder: Path | None) -> gs.Graph:
    values = {info.name: info for info in (*proto.value_info, *proto.output, *proto.input)}
    inputs = {info.name for info in proto.input}
    scope: dict[str, gs.Tensor] = {}
    for info in proto.input:
        scope[info.name] = _variable(info.name, info)
    constants, defaults = [], {}
    for tensor in proto.initializer:
        name = tensor.name  # a new string each time that it is asked for
        if name in inputs:
            defaults[name] = tensor
            continue
        scope[name] = constant = _constant(name, tensor, folder)
        constants.append(constant)
    for sparse in proto.sparse_initializer:
        scope[sparse.values.name] = _variable(sparse.values.name, None)
    # all names first: a node may read what stands behind it, or what an outer node further down writes
    for node in proto.node:
        for name in node.output:
            if name and name not in scope:
                scope[name] = _variable(name, values.get(name))
    seen: Scope = _Chain(scope, outer) if outer else scope
    nodes = [_import_node(node, scope, seen, values, folder) for node in proto.node]
    view = gs.Graph(
        inputs=[scope[info.name] for info in proto.input],
        outputs=[_find(info.name, scope, seen, values) for info in proto.output],
        name=proto.name,
        doc_string=proto.doc_string,
    )
    view.nodes = nodes  # its constructor would look for functions in each
    read = {id(constant) for constant in constants if constant.outputs}
    reserved = {constant.name for constant in constants} | {info.name for info in proto.value_info}
    reserved.update(defaults)
    reserved.update(sparse.values.name for sparse in proto.sparse_initializer)
    notes = list(proto.quantization_annotation)
    entry = GraphTable(
        annotations=notes,
        reserved=reserved,
        proto=proto,
        constants=constants,
        defaults=defaults,
        read=read,
        imported=[*scope.values(), *nodes],
    )
    keep(view, entry)
    return view


class _Chain(Mapping[str, gs.Tensor]):
    """Names of a body, then those of the graphs around it."""

    def __init__(self, inner: Scope, outer: Scope) -> None:
        self.inner, self.outer = inner, outer

    def __getitem__(self, name: str) -> gs.Tensor:
        return self.inner[name] if name in self.inner else self.outer[name]

    def __contains__(self, name: object) -> bool:
        return name in self.inner or name in self.outer

    def __iter__(self) -> Any:
        return iter({**self.outer, **self.inner})

    def __len__(self) -> int:
        return len({**self.outer, **self.inner})


def _find(name: str, scope: dict[str, gs.Tensor], seen: Scope, values: Mapping[str, ValueInfoProto]) -> gs.Tensor:
    if not name:
        return gs.Variable.empty()
    if name not in seen:  # nothing writes it; the checker's business, not ours
        scope[name] = _variable(name, values.get(name))
    return seen[name]


def _import_node(
    proto: NodeProto,
    scope: dict[str, gs.Tensor],
    seen: Scope,
    values: Mapping[str, ValueInfoProto],
    folder: Path | None,
) -> gs.Node:
    attrs = {intern(attribute.name): _import_attribute(attribute, seen, folder) for attribute in proto.attribute}
    node = making.node(
        intern(proto.op_type),
        proto.name,
        attrs,
        [seen[name] if name and name in seen else _find(name, scope, seen, values) for name in proto.input],
        [scope[name] if name else gs.Variable.empty() for name in proto.output],
        proto.domain if proto.HasField("domain") else None,
    )
    keep(node, proto)
    return node


def _import_attribute(proto: AttributeProto, seen: Scope, folder: Path | None) -> Any:
    kind = AttributeProto
    if proto.type == kind.TENSOR and not proto.ref_attr_name:
        return _constant(proto.t.name, proto.t, folder)
    if proto.type == kind.GRAPH and not proto.ref_attr_name:
        return _import_graph(proto.g, seen, folder)
    if proto.type == kind.GRAPHS and not proto.ref_attr_name:
        return [_import_graph(item, seen, folder) for item in proto.graphs]
    value = plain_value(proto)
    if value is not None:
        return value
    copy = AttributeProto()  # sparse tensors and type protos: as they are, but a pass may change them in place
    copy.CopyFrom(proto)
    return copy


def _constant(name: str, tensor: TensorProto, folder: Path | None) -> gs.Constant:
    values = StoredValues(tensor, folder)
    constant = making.constant(name, values)
    keep(constant, values)
    return constant


def _variable(name: str, info: ValueInfoProto | None) -> gs.Variable:
    if info is None:
        variable = making.variable(name, None, None, "tensor_type")
        keep(variable, _NOTHING_SAID)
        return variable
    dtype, shape = tensor_type(info)
    variable = making.variable(name, dtype, shape, info.type.WhichOneof("value") or "tensor_type")
    keep(variable, VariableOrigin(info, dtype, None if shape is None else list(shape)))
    return variable


def tensor_type(info: ValueInfoProto) -> tuple[np.dtype[Any] | None, list[int | str | None] | None]:
    """Return the element type and the shape that `info` gives; None for what it does not give, or is no tensor's."""
    if info.type.WhichOneof("value") != "tensor_type":
        return None, None
    given = info.type.tensor_type
    shape = [_dimension(dim) for dim in given.shape.dim] if given.HasField("shape") else None
    return numpy_dtype(given.elem_type), shape


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) if dim.HasField("dim_param") else None
