"""Give tensors the names that an accelerator's tools, or the code around the model, ask for.

    x -> Conv -> 497 -> Relu -> 498  ->  image -> Conv -> features -> Relu -> 498

    rename-tensors: {names: {x: image, "497": features}}

Inputs, outputs, initializers and inner tensors, by their exact names, in If and Loop bodies and in training steps too.
What a caller feeds and fetches is called by the new names.

In a recipe, among the passes on the whole graph, the names of the captured tensors come first, since it is by name
that a graph is compared with them: an output, or what becomes the boundary of a part, is given the name of the captured
tensor that it equals, whatever it is called here. A new name for an input of the graph, or for an end of a part, ends
the run. Inner tensors keep the names that they get.

A run ends with an error when
1. there is no such tensor
2. another tensor has the new name

It leaves a tensor alone when
3. nothing has the old name, and something has the new one: a run before this one gave it
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from onnx import GraphProto, ModelProto

from graphsurgery.graph.notes import renamed_note
from graphsurgery.rewrite import Editor, ModelPass


@dataclass(frozen=True)
class RenameTensors(ModelPass):
    """`names` maps old names to new ones."""

    name = "rename-tensors"
    effect = "exact"
    keeps_outputs = False

    names: dict[str, str]

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("names: nothing to do; give {old: new}")
        if "" in self.names or "" in self.names.values():
            raise ValueError("names: a tensor without a name is one that is left out; give each a name")
        twice = [name for name, count in Counter(self.names.values()).items() if count > 1]
        if twice:
            raise ValueError(f"names: two tensors would be called '{twice[0]}'")
        both = [name for name in self.names.values() if name in self.names]
        if both:
            # a second run would rename it again
            raise ValueError(f"names: '{both[0]}' is both an old and a new name; rename in two steps")

    def rewrite(self, model: ModelProto, edit: Editor) -> ModelProto:
        # a step of the training runs the model's graph and its own, one behind the other, as one
        inside = [model.graph, *(training.algorithm for training in model.training_info)]
        present = {name for top in inside for graph in _graphs(top) for name in _names(graph)}
        wanted = {}
        for old, new in self.names.items():
            if old in present and new in present:
                raise edit.fail(f"can't call '{old}' '{new}': another tensor is called so")
            if old in present:
                wanted[old] = new
            elif new in present:
                edit.skip(None, f"'{old}' is called '{new}' already")
            else:
                near = difflib.get_close_matches(old, sorted(present), n=3, cutoff=0.5)
                hint = f" Nearest: {', '.join(near)}" if near else ""
                raise edit.fail(f"there is no tensor '{old}'.{hint}")
        for graph in (graph for top in inside for graph in _graphs(top)):
            _rename(graph, wanted)
        for training in model.training_info:
            for entry in (*training.initialization_binding, *training.update_binding):
                entry.key = wanted.get(entry.key, entry.key)
            for entry in training.update_binding:  # the values of the others are outputs of a graph that stands alone
                entry.value = wanted.get(entry.value, entry.value)
        for note in model.metadata_props:
            note.value = renamed_note(note.key, note.value, wanted)
        return model


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield `graph` and every graph inside it."""
    pending = [graph]
    while pending:
        current = pending.pop()
        yield current
        for attribute in (attribute for node in current.node for attribute in node.attribute):
            pending += [attribute.g] if attribute.HasField("g") else attribute.graphs


def _names(graph: GraphProto) -> Iterator[str]:
    yield from (item.name for item in (*graph.input, *graph.output, *graph.value_info, *graph.initializer))
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    yield from (name for node in graph.node for name in (*node.input, *node.output) if name)


def _rename(graph: GraphProto, names: dict[str, str]) -> None:
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
