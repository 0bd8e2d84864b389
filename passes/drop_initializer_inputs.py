"""Let initializers be no inputs any more, so that they count as constants: IR version 3 made each of them both.

    g(x, w) => (y) <w = [2, 3]> { y = Add(x, w) }   ->   g(x) => (y) <w = [2, 3]> { y = Add(x, w) }

Models exported before 2019 are like that, and no pass may touch a weight that a caller could override. This pass says
that nobody does: it is exact as far as that is true. The model gets IR version 4 where it had an older one.

It does not fire when
1. the name of the input matches a pattern in `keep`
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto

from graphsurgery.graph.names import matches
from graphsurgery.graph.protos import stored_names
from graphsurgery.rewrite import Editor, ModelPass

_FREE_INITIALIZERS = 4  # the first IR version in which an initializer need not be an input as well


@dataclass(frozen=True)
class DropInitializerInputs(ModelPass):
    """`keep` lists names, or patterns with * and ?, of inputs that a caller does override."""

    name = "drop-initializer-inputs"
    effect = "exact"
    takes_references = True

    keep: tuple[str, ...] = ()

    def rewrite(self, model: ModelProto, edit: Editor) -> ModelProto:
        graph = model.graph
        defaults = stored_names(graph)
        both = [info.name for info in graph.input if info.name in defaults]
        kept = {name for name in both if matches(name, self.keep)}
        for pattern in self.keep:
            if not any(matches(name, [pattern]) for name in kept):
                edit.skip(None, f"keep: no input with a default value is called '{pattern}'")
        for name in sorted(kept):
            edit.skip(None, f"'{name}' stays an input, as asked for")
        left = [info for info in graph.input if info.name not in defaults or info.name in kept]
        if len(left) < len(graph.input):
            del graph.input[:]
            graph.input.extend(left)
            model.ir_version = max(model.ir_version, _FREE_INITIALIZERS)
        return model
