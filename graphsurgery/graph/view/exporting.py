"""From the view back to a ModelProto."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorAnnotation

from graphsurgery import graph as graphs
from graphsurgery.errors import ModelError
from graphsurgery.graph.view.attributes import FLOATS, declared_kinds, export_attribute, same_attributes, with_doc
from graphsurgery.graph.view.origin import GraphTable, kept, table
from graphsurgery.graph.view.tensors import export_value, has_type, is_new, tensor_of, unchanged

_Names = ChainMap[str, gs.Tensor]  # what a body may read, by name: its own, then those of the graphs around it


@dataclass(frozen=True)
class _Form:
    """What is the same for a graph and the bodies in it: the operator sets by domain, and whether nodes are ordered."""

    versions: Mapping[str, int]
    ordered: bool


def to_proto(view: gs.Graph, largest: int | None = None, *, ordered: bool = False) -> ModelProto:
    """Return the ModelProto of `view`; unchanged nodes, weights and types are the original protos.

    With `largest`, it is for shape inference: of an initializer with more elements only the type is written, as an
    input, and so it is of one that is an input too. With `ordered`, each node stands behind what it reads, though
    `view` itself stays as it is. Raises ModelError where there is no such order, and for what ONNX can't hold.
    """
    model = ModelProto()
    base = table(view).base
    if base is not None:
        for descriptor, value in base.ListFields():
            if descriptor.name == "graph":
                continue
            if descriptor.is_repeated:
                getattr(model, descriptor.name).extend(value)
            else:
                setattr(model, descriptor.name, value)
    else:
        opset = onnx.helper.make_opsetid("", view.opset)
        model.ir_version = view.ir_version or onnx.helper.find_min_ir_version_for([opset])
        model.opset_import.extend(view.import_domains or [])
        model.producer_name = "graphsurgery"
    _export_opsets(view, model)
    metadata = table(view).metadata
    if metadata != {entry.key: entry.value for entry in model.metadata_props}:
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, metadata)
    versions = {_domain(entry.domain): entry.version for entry in model.opset_import}
    _export_graph(view, model.graph, ChainMap(), _Form(versions, ordered), largest)
    if model.ir_version < 4 and any(is_new(t) for node in graphs.walk_nodes(view) for t in node.inputs):
        model.ir_version = 4  # before, every initializer had to be an input as well
    return model


def in_order(view: gs.Graph) -> list[gs.Node]:
    """Return the nodes of `view`, each behind what it reads, without those that a pass has cut loose."""
    return [node for node in graphs.ordered(view) if node.inputs or node.outputs]


def _export_opsets(view: gs.Graph, model: ModelProto) -> None:
    names = {entry.domain: entry for entry in model.opset_import}
    domains = {node.domain for node in graphs.walk_nodes(view)}
    for default in ("", "ai.onnx"):
        if default in names:
            names[default].version = view.opset
            break
    else:
        names[""] = onnx.helper.make_opsetid("", view.opset)
        if not domains.isdisjoint(graphs.STANDARD_DOMAINS):
            model.opset_import.append(names[""])
    asked = {entry.domain: entry.version for entry in view.import_domains or ()}
    for domain in sorted(domains - set(names) - set(graphs.STANDARD_DOMAINS)):
        model.opset_import.append(onnx.helper.make_opsetid(domain, asked.get(domain, 1)))


def _export_graph(view: gs.Graph, proto: GraphProto, outer: _Names, form: _Form, largest: int | None = None) -> None:
    entry = table(view)
    for descriptor, value in entry.proto.ListFields():
        if descriptor.name in ("metadata_props", "sparse_initializer"):
            getattr(proto, descriptor.name).extend(value)
    for field in ("name", "doc_string"):
        if getattr(view, field) or entry.proto.HasField(field):
            setattr(proto, field, getattr(view, field))

    written: dict[str, gs.Tensor] = {tensor.name: tensor for node in view.nodes for tensor in node.outputs}
    written.pop("", None)  # of outputs that are left out
    written.update((tensor.name, tensor) for tensor in view.inputs)
    constants: dict[str, gs.Constant] = {}
    annotations = _annotations(view, entry, written)
    named = {entry.value for note in annotations for entry in note.quant_parameter_tensor_names}
    proto.quantization_annotation.extend(annotations)
    for tensor in _constants(view, entry, named):
        if tensor.name in written:
            if written[tensor.name] is not tensor:
                raise ModelError(f"an initializer has the name of a computed tensor, '{tensor.name}'; rename one")
        elif tensor.name and outer.get(tensor.name) is not tensor:
            other = constants.setdefault(tensor.name, tensor)
            if other is not tensor and not np.array_equal(other.values, tensor.values):
                raise ModelError(f"two initializers with different values are called '{tensor.name}'; rename one")
    visible = outer.new_child(written).new_child(constants)
    for node in in_order(view) if form.ordered else view.nodes:
        original = _original(node)
        if original is not None:
            proto.node.append(original)
        else:
            _export_node(node, proto.node.add(), visible, form)
    for tensor in view.inputs:
        export_value(tensor, proto.input.add())
    for tensor in view.outputs:
        export_value(tensor, proto.output.add())
    inputs = {tensor.name for tensor in view.inputs}
    for name, default in entry.defaults.items():
        if name in inputs and largest is None:  # else inference would rely on what a caller may override
            proto.initializer.add().CopyFrom(default)
    for constant in constants.values():
        if _exceeds(constant.shape, largest):
            export_value(constant, proto.input.add())
        else:
            proto.initializer.add().CopyFrom(tensor_of(constant))  # append() takes twice as long over large values
    _export_value_info(view, proto, entry, written)


def _exceeds(shape: Iterable[int], largest: int | None) -> bool:
    return largest is not None and math.prod(shape) > largest


def _annotations(view: gs.Graph, entry: GraphTable, written: Mapping[str, gs.Tensor]) -> list[TensorAnnotation]:
    """Return the quantization annotations of `view`, without those of tensors that were in it and are gone."""
    notes = entry.annotations
    if not notes:
        return []
    present = {*written, *(tensor.name for tensor in _constants(view, entry))}
    return [note for note in notes if note.tensor_name in present or note.tensor_name not in entry.names]


def _constants(view: gs.Graph, entry: GraphTable, named: Collection[str] = ()) -> Iterable[gs.Constant]:
    """Yield the initializers of `view` in their old order, then the new ones.

    Not those that nothing reads any more, unless they are `named` elsewhere.
    """
    for tensor in entry.constants:
        if tensor.outputs or id(tensor) not in entry.read or tensor.name in named:
            yield tensor
    for node in view.nodes:
        yield from (tensor for tensor in node.inputs if isinstance(tensor, gs.Constant))
    yield from (tensor for tensor in view.outputs if isinstance(tensor, gs.Constant))


def _export_value_info(view: gs.Graph, proto: GraphProto, entry: GraphTable, written: Mapping[str, gs.Tensor]) -> None:
    ends = {tensor.name: tensor for tensor in (*view.inputs, *view.outputs)}
    done = set(ends)
    for info in entry.proto.value_info:
        if info.name in done:
            listed_twice = info.name in entry.interface
            if listed_twice and info.name in ends and unchanged(ends[info.name]) is not None:
                proto.value_info.append(info)
        elif info.name in written:
            if has_type(written[info.name]):
                export_value(written[info.name], proto.value_info.add())
            done.add(info.name)
        elif info.name not in entry.written:
            proto.value_info.append(info)  # of an initializer, or of nothing: not ours to judge
            done.add(info.name)
    for name, tensor in written.items():
        if name not in done and has_type(tensor):
            export_value(tensor, proto.value_info.add())


def _original(node: gs.Node) -> NodeProto | None:
    """Return the proto of `node` where it is certainly as it came in, which most nodes are after most passes; one with
    tensors or bodies among its attributes is looked at closer."""
    proto = kept(node, NodeProto)
    if proto is None:
        return None
    same = (
        node.op == proto.op_type
        and node.name == proto.name
        and node.domain == (proto.domain if proto.HasField("domain") else None)
        and [tensor.name for tensor in node.inputs] == proto.input
        and [tensor.name for tensor in node.outputs] == proto.output
        and same_attributes(node.attrs, proto)
    )
    return proto if same else None


def _export_node(node: gs.Node, proto: NodeProto, visible: _Names, form: _Form) -> None:
    origin = kept(node, NodeProto)
    calls_the_same = origin is not None and (origin.op_type, origin.domain) == (node.op, node.domain or "")
    if origin is not None:
        for descriptor, value in origin.ListFields():
            # an overload is one of several functions of a name; another operator has none of that number
            if descriptor.name == "doc_string" or (descriptor.name == "overload" and calls_the_same):
                setattr(proto, descriptor.name, value)
            elif descriptor.name in ("metadata_props", "device_configurations"):
                getattr(proto, descriptor.name).extend(value)
    proto.op_type = node.op
    if node.name or (origin is not None and origin.HasField("name")):
        proto.name = node.name
    if node.domain is not None:
        proto.domain = node.domain
    proto.input.extend(tensor.name for tensor in node.inputs)
    proto.output.extend(tensor.name for tensor in node.outputs)
    before = {} if origin is None else {attribute.name: attribute for attribute in origin.attribute}
    domain = _domain(node.domain)
    declared = declared_kinds(node.op, domain, form.versions.get(domain, 1))
    if not declared and calls_the_same:  # a custom operator: what was written as a float is one
        declared = {name: attribute.type for name, attribute in before.items() if attribute.type in FLOATS}
    for name, value in node.attrs.items():
        if isinstance(value, gs.Graph):
            attribute = with_doc(proto.attribute.add(name=name, type=AttributeProto.GRAPH), before.get(name))
            _export_graph(value, attribute.g, visible, form)
        elif isinstance(value, list) and any(isinstance(item, gs.Graph) for item in value):
            attribute = with_doc(proto.attribute.add(name=name, type=AttributeProto.GRAPHS), before.get(name))
            for item in value:
                _export_graph(item, attribute.graphs.add(), visible, form)
        else:
            export_attribute(name, value, before.get(name), declared.get(name), proto)


def _domain(domain: str | None) -> str:
    return "" if domain in graphs.STANDARD_DOMAINS else str(domain)
