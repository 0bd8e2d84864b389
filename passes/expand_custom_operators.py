"""Put the standard nodes that a custom operator means in its place, for a compiler that doesn't know the operator.

    grid = mmcv.grid_sampler(x, where)  ->  grid = GridSample(x, where)

    expand-custom-operators: {operators: [mmcv.grid_sampler, RoiExtractor]}

The nodes are those with which the model is checked and run as long as it holds the operator (docs/custom-operators.md),
in the operator set that it has. Outputs keep their names, in bodies and functions too. A domain that nothing uses any
more is no longer imported.

It leaves the model as it is when
1. a node's operator is written for a newer operator set than the model has: raise that first, or leave it out of
   `operators`
2. a node has inputs or attributes that its operator can't be written with
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from graphsurgery.errors import ModelError, name_nearest
from graphsurgery.graph.expansion import custom_nodes, expanded, operator_name
from graphsurgery.graph.names import matches
from graphsurgery.graph.protos import drop_unused_imports
from graphsurgery.rewrite import Editor, ModelPass, Refuse


@dataclass(frozen=True)
class ExpandCustomOperators(ModelPass):
    """`operators` names those that go, or patterns of them such as mmcv.*; all custom operators if not given."""

    name = "expand-custom-operators"
    effect = "exact"
    takes_references = True

    operators: tuple[str, ...] = ("*",)

    def rewrite(self, model: ModelProto, edit: Editor) -> ModelProto:
        present = sorted({operator_name(node) for node in custom_nodes(model)})
        for pattern in self.operators if present else ():
            if not any(matches(name, [pattern]) for name in present):
                held = f"it holds {', '.join(present)}"
                edit.skip(None, f"no custom operator is called '{pattern}'; {held}.{name_nearest(pattern, present)}")
        try:
            written = expanded(model, self._goes)
        except ModelError as error:
            raise Refuse(str(error)) from error
        if written is not model:
            drop_unused_imports(written)
        return written

    def _goes(self, node: NodeProto) -> bool:
        return matches(operator_name(node), self.operators)
