"""Names of tensors: new ones, and other ones for those that are there."""

from __future__ import annotations

import re
from collections.abc import Mapping

from onnx import ModelProto

from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import renamed_note
from graphsurgery.graph.protos import bodies, walk_protos


def clean_name(name: str) -> str:
    """Return an exporter's tensor name as letters, digits, dots and underscores."""
    return re.sub(r"[^0-9A-Za-z_.]+", "_", name).strip("_.") or "tensor"


def rename_tensors(model: Model, names: Mapping[str, str]) -> Model:
    """Return the model with tensors renamed, in bodies too; a tensor that has a wanted name already makes way.

    An input or output of the graph does not make way: then the name is not given.
    """
    ends = {info.name for info in (*model.proto.graph.input, *model.proto.graph.output)} - set(names)
    names = {old: new for old, new in names.items() if new not in ends}
    if not names:
        return model
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    present = tensor_names(proto)
    mapping = dict(names)
    for wanted in names.values():
        if wanted in present and wanted not in names:
            mapping[wanted] = fresh(f"{wanted}_inner", present | set(names.values()))
    graphs = [proto.graph, *(body for node in walk_protos(proto.graph) for body in bodies(node))]
    for graph in graphs:
        sparse = [tensor.values for tensor in graph.sparse_initializer]
        for info in (*graph.input, *graph.output, *graph.value_info, *graph.initializer, *sparse):
            if info.name in mapping:
                info.name = mapping[info.name]
        for note in graph.quantization_annotation:
            note.tensor_name = mapping.get(note.tensor_name, note.tensor_name)
            for entry in note.quant_parameter_tensor_names:
                entry.value = mapping.get(entry.value, entry.value)
        for node in graph.node:
            node.input[:] = [mapping.get(name, name) for name in node.input]
            node.output[:] = [mapping.get(name, name) for name in node.output]
    for note in proto.metadata_props:
        note.value = renamed_note(note.key, note.value, mapping)
    return Model(proto, model.folder)


def tensor_names(proto: ModelProto) -> set[str]:
    names = {name for node in walk_protos(proto.graph) for name in (*node.input, *node.output)}
    return names | {info.name for info in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer)}


def fresh(hint: str, taken: set[str]) -> str:
    """Return `hint`, or `hint` and a number, whichever is not taken."""
    return next(name for name in (hint, *(f"{hint}_{n}" for n in range(2, len(taken) + 3))) if name not in taken)
