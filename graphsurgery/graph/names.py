"""Names of tensors: new ones, and other ones for those that are there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import chain, count

from onnx import GraphProto, ModelProto

from graphsurgery.graph.notes import renamed_note
from graphsurgery.graph.protos import graphs_in, stored_names, walk_protos


def clean_name(name: str) -> str:
    """Return an exporter's tensor name as letters, digits, dots and underscores."""
    return re.sub(r"[^0-9A-Za-z_.]+", "_", name).strip("_.") or "tensor"


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of `patterns` or fits one: * stands for any characters, ? for one, all else for itself."""
    return any(name == pattern or fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in patterns)


def top_names(graph: GraphProto) -> list[str]:
    """Return the names of the tensors of `graph` itself, each once."""
    stored = [*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)]
    names = [each.name for each in (*graph.input, *stored)]
    names += [name for node in graph.node for name in node.output if name]
    return list(dict.fromkeys(names))


def rename_in(model: ModelProto, names: Mapping[str, str]) -> None:
    """Rename tensors of `model` in place, old name -> new: in bodies, annotations, notes and training steps too.

    No tensor may have a new name already.
    """
    # a step of the training runs the model's graph and its own, one behind the other, as one
    for top in (model.graph, *(training.algorithm for training in model.training_info)):
        for graph in graphs_in(top):
            _rename_in_graph(graph, names)
    for training in model.training_info:
        for entry in (*training.initialization_binding, *training.update_binding):
            entry.key = names.get(entry.key, entry.key)
        for entry in training.update_binding:  # the values of the others are outputs of a graph that stands alone
            entry.value = names.get(entry.value, entry.value)
    for note in model.metadata_props:
        note.value = renamed_note(note.key, note.value, names)


def _rename_in_graph(graph: GraphProto, names: Mapping[str, str]) -> None:
    sparse = [tensor.values for tensor in graph.sparse_initializer]
    for item in (*graph.input, *graph.output, *graph.value_info, *graph.initializer, *sparse):
        item.name = names.get(item.name, item.name)
    for note in graph.quantization_annotation:
        note.tensor_name = names.get(note.tensor_name, note.tensor_name)
        for entry in note.quant_parameter_tensor_names:
            entry.value = names.get(entry.value, entry.value)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        if (node.domain, node.op_type) == ("ai.onnx.preview.training", "Gradient"):  # its attributes are tensors' names
            encoded = {old.encode(): new.encode() for old, new in names.items()}
            for attribute in node.attribute:
                attribute.strings[:] = [encoded.get(name, name) for name in attribute.strings]
                if attribute.s in encoded:
                    attribute.s = encoded[attribute.s]


def tensor_names(proto: ModelProto) -> set[str]:
    names = {name for node in walk_protos(proto.graph) for name in (*node.input, *node.output)}
    return names | {info.name for info in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer)}


def names_in(graph: GraphProto) -> set[str]:
    """Return the names that a tensor, a type or an initializer of `graph` or of a body in it has."""
    names: set[str] = set()
    for inner in graphs_in(graph):
        names.update(item.name for item in (*inner.input, *inner.output, *inner.value_info))
        names.update(stored_names(inner), *(node.input for node in inner.node), *(node.output for node in inner.node))
    return names - {""}


def fresh(hint: str, taken: set[str]) -> str:
    """Return `hint`, or `hint` and a number, whichever is not taken."""
    numbered = (f"{hint}_{n}" for n in count(2))
    return next(name for name in chain([hint], numbered) if name not in taken)
