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

from collections import Counter
from dataclasses import dataclass

from onnx import ModelProto

from graphsurgery.errors import name_nearest
from graphsurgery.graph.names import names_in, rename_in
from graphsurgery.rewrite import Editor, ModelPass


@dataclass(frozen=True)
class RenameTensors(ModelPass):
    """`names` maps old names to new ones."""

    name = "rename-tensors"
    effect = "exact"
    takes_references = True
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
        present = names_in(model.graph).union(*(names_in(training.algorithm) for training in model.training_info))
        wanted = {}
        for old, new in self.names.items():
            if old in present and new in present:
                raise edit.fail(f"can't call '{old}' '{new}': another tensor is called so")
            if old in present:
                wanted[old] = new
            elif new in present:
                edit.skip(None, f"'{old}' is called '{new}' already")
            else:
                raise edit.fail(f"there is no tensor '{old}'.{name_nearest(old, present)}")
        rename_in(model, wanted)
        return model
