"""From the view back to a ModelProto."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorAnnotation, TensorProto, ValueInfoProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphsurgery import graph as graphs
from graphsurgery.errors import ModelError
from graphsurgery.graph.outside import same_bytes
from graphsurgery.graph.view.origin import (
    GraphTable,
    NodeOrigin,
    Scope,
    StoredValues,
    VariableOrigin,
    kept,
    plain_value,
    table,
)

_FLOATS = (AttributeProto.FLOAT, AttributeProto.FLOATS)


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
    _export_graph(view, model.graph, {}, _Form(versions, ordered), largest)
    if model.ir_version < 4 and any(_is_new(t) for node in graphs.walk_nodes(view) for t in node.inputs):
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


def _export_graph(view: gs.Graph, proto: GraphProto, outer: Scope, form: _Form, largest: int | None = None) -> None:
    entry = table(view)
    for descriptor, value in entry.proto.ListFields():
        if descriptor.name in ("metadata_props", "sparse_initializer"):
            getattr(proto, descriptor.name).extend(value)
    for field in ("name", "doc_string"):
        if getattr(view, field) or entry.proto.HasField(field):
            setattr(proto, field, getattr(view, field))

    written: dict[str, gs.Tensor] = {tensor.name: tensor for node in view.nodes for tensor in node.outputs}
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
    visible = {**outer, **written, **constants}
    for node in in_order(view) if form.ordered else view.nodes:
        original = _original(node)
        if original is not None:
            proto.node.append(original)
        else:
            _export_node(node, proto.node.add(), visible, form)
    for tensor in view.inputs:
        _export_value(tensor, proto.input.add())
    for tensor in view.outputs:
        _export_value(tensor, proto.output.add())
    inputs = {tensor.name for tensor in view.inputs}
    for name, default in entry.defaults.items():
        if name in inputs and largest is None:  # else inference would rely on what a caller may override
            proto.initializer.add().CopyFrom(default)
    for constant in constants.values():
        if _exceeds(constant.shape, largest):
            _export_value(constant, proto.input.add())
        else:
            proto.initializer.add().CopyFrom(_tensor(constant))  # append() takes twice as long over large values
    _export_value_info(view, proto, entry)


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


def _export_value_info(view: gs.Graph, proto: GraphProto, entry: GraphTable) -> None:
    ends = {tensor.name: tensor for tensor in (*view.inputs, *view.outputs)}
    done = set(ends)
    current = {t.name: t for node in view.nodes for t in node.outputs if t.name}
    for info in entry.proto.value_info:
        if info.name in done:
            listed_twice = info.name in entry.interface
            if listed_twice and info.name in ends and _unchanged(ends[info.name]) is not None:
                proto.value_info.append(info)
        elif info.name in current:
            if _has_type(current[info.name]):
                _export_value(current[info.name], proto.value_info.add())
            done.add(info.name)
        elif info.name not in entry.written:
            proto.value_info.append(info)  # of an initializer, or of nothing: not ours to judge
            done.add(info.name)
    for name, tensor in current.items():
        if name not in done and _has_type(tensor):
            _export_value(tensor, proto.value_info.add())


def _has_type(tensor: gs.Tensor) -> bool:
    """Whether there is something to say about `tensor`: a type and a shape, or what the file said."""
    return (tensor.dtype is not None and tensor.shape is not None) or _unchanged(tensor) is not None


def _unchanged(tensor: gs.Tensor) -> ValueInfoProto | None:
    """Return what the file said about `tensor`, if no pass has changed its type or shape since."""
    known = kept(tensor, VariableOrigin)
    if known is None:  # new, or an initializer
        return None
    shape = None if tensor.shape is None else list(tensor.shape)
    return known.info if (known.dtype, known.shape) == (tensor.dtype, shape) else None


def _original(node: gs.Node) -> NodeProto | None:
    """Return the proto of `node` where it is certainly as it came in, which most nodes are after most passes; one with
    tensors or bodies among its attributes is looked at closer."""
    origin = kept(node, NodeOrigin)
    if origin is None:
        return None
    proto = origin.proto
    same = (
        node.op == proto.op_type
        and node.name == proto.name
        and node.domain == (proto.domain if proto.HasField("domain") else None)
        and [tensor.name for tensor in node.inputs] == proto.input
        and [tensor.name for tensor in node.outputs] == proto.output
        and _same_attributes(node.attrs, proto)
    )
    return proto if same else None


def _same_attributes(attrs: Mapping[str, Any], proto: NodeProto) -> bool:
    """Whether `attrs` are those of `proto`, in their order; False where one holds anything but numbers and text."""
    if not attrs:
        return not proto.attribute
    before = {attribute.name: attribute for attribute in proto.attribute}
    return list(attrs) == list(before) and all(
        _is_plain(value) and _is_as_before(value, before[name]) for name, value in attrs.items()
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str | bytes) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], int | float | str | bytes)
    )


def _is_as_before(value: Any, attribute: AttributeProto) -> bool:
    """Whether `value` is what the view made of `attribute`, where that holds numbers, text or another's name."""
    before = plain_value(attribute)
    return type(before) is type(value) and repr(before) == repr(value)  # 0.0 isn't -0.0, and NaN is NaN


def _export_node(node: gs.Node, proto: NodeProto, visible: Scope, form: _Form) -> None:
    origin = kept(node, NodeOrigin)
    calls_the_same = origin is not None and (origin.proto.op_type, origin.proto.domain) == (node.op, node.domain or "")
    if origin is not None:
        for descriptor, value in origin.proto.ListFields():
            # an overload is one of several functions of a name; another operator has none of that number
            if descriptor.name == "doc_string" or (descriptor.name == "overload" and calls_the_same):
                setattr(proto, descriptor.name, value)
            elif descriptor.name in ("metadata_props", "device_configurations"):
                getattr(proto, descriptor.name).extend(value)
    proto.op_type = node.op
    if node.name or (origin is not None and origin.proto.HasField("name")):
        proto.name = node.name
    if node.domain is not None:
        proto.domain = node.domain
    proto.input.extend(tensor.name for tensor in node.inputs)
    proto.output.extend(tensor.name for tensor in node.outputs)
    before = {} if origin is None else {attribute.name: attribute for attribute in origin.proto.attribute}
    domain = _domain(node.domain)
    declared = _declared_kinds(node.op, domain, form.versions.get(domain, 1))
    if not declared and calls_the_same:  # a custom operator: what was written as a float is one
        declared = {name: attribute.type for name, attribute in before.items() if attribute.type in _FLOATS}
    for name, value in node.attrs.items():
        if isinstance(value, gs.Graph):
            attribute = _with_doc(proto.attribute.add(name=name, type=AttributeProto.GRAPH), before.get(name))
            _export_graph(value, attribute.g, visible, form)
        elif isinstance(value, list) and any(isinstance(item, gs.Graph) for item in value):
            attribute = _with_doc(proto.attribute.add(name=name, type=AttributeProto.GRAPHS), before.get(name))
            for item in value:
                _export_graph(item, attribute.graphs.add(), visible, form)
        else:
            _export_attribute(name, value, before.get(name), declared.get(name), proto)


def _export_attribute(
    name: str, value: Any, before: AttributeProto | None, declared: int | None, node: NodeProto
) -> None:
    if isinstance(value, AttributeProto):
        node.attribute.append(value)
    elif isinstance(value, gs.Constant):
        tensor = _tensor(value)
        if before is not None and before.HasField("t") and tensor is before.t:
            node.attribute.append(before)
        else:
            node.attribute.append(_with_doc(onnx.helper.make_attribute(name, tensor), before))
    elif before is not None and _is_as_before(value, before):
        node.attribute.append(before)
    else:
        if declared is None and before is not None and isinstance(value, list | tuple) and not value:
            declared = before.type  # an empty list does not tell of what it is
        node.attribute.append(_new_attribute(name, value, declared, node))


def _with_doc(attribute: AttributeProto, before: AttributeProto | None) -> AttributeProto:
    if before is not None and before.HasField("doc_string"):
        attribute.doc_string = before.doc_string
    return attribute


def _new_attribute(name: str, value: Any, declared: int | None, node: NodeProto) -> AttributeProto:
    """Return a new attribute, of the kind that the operator's definition says: a float may be given as 1.

    Raises ModelError for a value that is not of that kind.
    """
    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(plain, type | np.dtype):  # graphsurgeon's way to write Cast's `to`
        plain = _elem_type(plain)
    where = f"node '{node.name}' ({node.op_type}): attribute '{name}'"
    if isinstance(plain, list | tuple):
        plain = [_plain(item, declared) for item in plain]
        if not plain and declared is None:
            raise ModelError(f"{where} is an empty list, and ONNX does not say of what; leave it out")
    else:
        plain = _plain(plain, declared)
    kind = "" if declared is None else AttributeProto.AttributeType.Name(declared)
    if isinstance(plain, list) and kind and not kind.endswith("S"):
        raise ModelError(f"{where} can't be {value!r}: it is a list, and ONNX wants one {kind}")
    try:
        return onnx.helper.make_attribute(name, plain, attr_type=declared)
    except (TypeError, ValueError) as error:
        wanted = f"; ONNX wants {kind}" if kind else ""
        raise ModelError(f"{where} can't be {value!r}: {str(error).splitlines()[0]}{wanted}") from error


def _plain(value: Any, declared: int | None) -> Any:
    """Return a number as Python has it: whole numbers as floats where those are declared, truth values as 0 and 1."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool):
        value = int(value)
    return float(value) if isinstance(value, int) and declared in _FLOATS else value


@cache
def _declared_kinds(op: str, domain: str, version: int) -> Mapping[str, int]:
    """Return the kinds of an operator's attributes as its definition says; none for one that ONNX does not define."""
    if not onnx.defs.has(op, version, domain):
        return {}
    declared = onnx.defs.get_schema(op, version, domain).attributes
    kinds = {name: str(attribute.type).rpartition(".")[2] for name, attribute in declared.items()}
    return {name: AttributeProto.AttributeType.Value(kind) for name, kind in kinds.items()}


def _domain(domain: str | None) -> str:
    return "" if domain in graphs.STANDARD_DOMAINS else str(domain)


def _is_new(tensor: gs.Tensor) -> bool:
    """Whether `tensor` is an initializer that a pass has made."""
    return isinstance(tensor, gs.Constant) and kept(tensor, object) is None


def _tensor(constant: gs.Constant) -> TensorProto:
    """Return the TensorProto of `constant`; the stored one when neither its values nor its name changed."""
    stored = kept(constant, StoredValues)  # None too where it was a computed tensor
    values = constant._values
    if isinstance(values, LazyValues):
        tensor: TensorProto = values.tensor
    elif stored is not None and _same(values, stored):
        tensor = stored.tensor
    else:
        array = np.asarray(values)
        if constant._export_dtype is not None:
            array = array.astype(constant._export_dtype)
        tensor = onnx.numpy_helper.from_array(array, constant.name)
        if stored is not None:
            if stored.tensor.doc_string:
                tensor.doc_string = stored.tensor.doc_string
            tensor.metadata_props.extend(stored.tensor.metadata_props)
        return tensor
    if tensor.name == constant.name:
        return tensor
    renamed = TensorProto()
    renamed.CopyFrom(tensor)
    renamed.name = constant.name
    return renamed


def _same(values: np.ndarray, stored: StoredValues) -> bool:
    if list(values.shape) != stored.shape or values.dtype != stored.dtype:
        return False
    original = stored.load()
    if values.dtype == object:
        return bool(np.array_equal(values, original))
    one, other = (np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in (values, original))
    return same_bytes(one, other)


def _export_value(tensor: gs.Tensor, proto: ValueInfoProto) -> None:
    same = _unchanged(tensor)
    if same is not None:
        proto.CopyFrom(same)
        proto.name = tensor.name
        return
    known = kept(tensor, VariableOrigin)
    if known is not None and known.info is not None:
        for descriptor, value in known.info.ListFields():
            if descriptor.name == "metadata_props":
                proto.metadata_props.extend(value)
            elif descriptor.name == "doc_string":
                proto.doc_string = value
    proto.name = tensor.name
    if tensor.dtype is None:
        return
    shape = None if tensor.shape is None else list(tensor.shape)
    proto.type.CopyFrom(onnx.helper.make_tensor_type_proto(_elem_type(tensor.dtype), shape))


def _elem_type(dtype: Any) -> int:
    """Return ONNX's number for an element type, which graphsurgeon lets a pass give as that number or NumPy's way."""
    return int(dtype) if isinstance(dtype, int) else int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
