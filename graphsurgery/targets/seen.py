"""A graph as a vendor's tool sees it: what depends on no input is computed, arithmetic on static shapes included.

    Shape(x: 1x3x8x8) -> Gather(2) -> Concat(1, ., -1) -> Reshape.shape   ->   [1, 8, -1] -> Reshape.shape

ONNX Runtime does so before its providers are asked, and the converters as they load a model. What a file has written
out as nodes is nothing that a target has to take then, and sizes behind it are numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph import is_op
from graphsurgery.graph.model import Model
from graphsurgery.graph.multiply_adds import multiply_adds
from graphsurgery.graph.reach import live_nodes
from graphsurgery.graph.shapes import infer_shapes
from graphsurgery.operators.static_shapes import fold_shapes
from graphsurgery.rewrite import Editor


@dataclass(frozen=True)
class Seen:
    """A view of a model for looking at; `nodes` are those of the model's main graph in its order, folded ones too."""

    model: Model
    view: gs.Graph
    nodes: list[gs.Node]

    @cached_property
    def live(self) -> set[int]:
        """The nodes (as ids) that a tool sees."""
        return live_nodes(self.view)

    @cached_property
    def settled(self) -> frozenset[int]:
        """The tensors (as ids) that nodes write from constants alone."""
        return frozenset(id(each) for node in self.nodes if id(node) not in self.live for each in node.outputs)

    @cached_property
    def multiply_adds(self) -> dict[int, int | None]:
        """The multiply-adds of the nodes that are left, by their ids; None where a size is open."""
        counts = multiply_adds(Model.of(self.view, self.model.folder))
        return dict(zip((id(node) for node in self.view.nodes), counts, strict=True))


def as_written(model: Model) -> Seen:
    """Return a model with its shapes inferred, and nothing folded. Raises ModelError where the inference fails."""
    view = model.graph()
    infer_shapes(view, model.folder)
    return Seen(model, view, list(view.nodes))


def as_folded(model: Model) -> Seen:
    """Return a model as a tool sees it, its shapes inferred. Raises ModelError where the inference fails."""
    seen = as_written(model)
    if _has_something_to_fold(seen):
        fold_shapes(Editor(seen.view, folder=model.folder), frozen=False, whole=True)
        graphs.drop_unused(seen.view)
    return Seen(model, seen.view, seen.nodes)


def _has_something_to_fold(seen: Seen) -> bool:
    asks = any(is_op(node, "Shape", "Size") for node in graphs.walk_nodes(seen.view))
    return asks or any(id(node) not in seen.live and not is_op(node, "Constant") for node in seen.nodes)
