"""What is known of the tensors of a graph while a pass changes it: shapes are inferred, types where none is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph import shapes
from graphsurgery.graph.edited_shapes import EditedShapes
from graphsurgery.graph.element_types import element_type
from graphsurgery.graph.shapes import TensorType


class TrackedTypes:
    """Types and shapes in `root`, inferred at the first question and kept up to date with the edits that it is told of.

    `folder` is where external data lies; `report` is called with the reason where the inference fails.
    """

    def __init__(self, root: gs.Graph, folder: Path | None, report: Callable[[str], None]) -> None:
        self._root, self._report = root, report
        self._inferred = EditedShapes(root, lambda proto: shapes.infer(proto, folder))
        self._changes = graphs.changes()

    def shape(self, tensor: gs.Tensor) -> list[int | str | None] | None:
        """Return the shape of `tensor`; None where its rank is not known."""
        shape: Sequence[Any] | None = self._of(tensor).shape if isinstance(tensor, gs.Variable) else tensor.shape
        return None if shape is None else [_dimension(size) for size in shape]

    def dtype(self, tensor: gs.Tensor) -> np.dtype[Any] | None:
        """Return the element type of `tensor`; None where nothing tells."""
        kind = tensor.dtype
        if kind is None and isinstance(tensor, gs.Variable):
            kind = element_type(tensor, self._root)
        if kind is None and isinstance(tensor, gs.Variable):
            kind = self._of(tensor).dtype
        return None if kind is None else np.dtype(kind)

    def ask(self, tensors: Iterable[gs.Tensor]) -> None:
        """Infer what is not known yet of `tensors` at once."""
        self._forget_if_changed()
        self._inferred.ask(tensors)

    def forget(self) -> None:
        """Infer anew at the next question."""
        self._inferred.forget()
        self._changes = graphs.changes()

    def before_edit(self) -> EditedShapes:
        """Return whom to tell of the edit that is made now; all is forgotten where others have changed the graph."""
        self._forget_if_changed()
        return self._inferred

    def after_edit(self) -> None:
        """Take note that the edit is made."""
        self._changes = graphs.changes()

    def _of(self, tensor: gs.Tensor) -> TensorType:
        self._forget_if_changed()
        said = self._inferred.failure
        found = self._inferred.of(tensor)
        if self._inferred.failure is not None and said is None:  # then nothing is known but what is written down
            self._report(self._inferred.failure)
        return found

    def _forget_if_changed(self) -> None:
        if graphs.changes() != self._changes:
            self.forget()


def computed_from(nodes: Iterable[gs.Node], root: gs.Graph) -> list[gs.Tensor]:
    """Return what depends on what `nodes` write, and that itself; through the outputs of bodies too."""
    handed_out: dict[int, list[gs.Node]] = {}
    for holder in graphs.walk_nodes(root):
        for body in graphs.subgraphs(holder):
            for tensor in body.outputs:
                handed_out.setdefault(id(tensor), []).append(holder)
    found: list[gs.Tensor] = []
    pending, seen = list(nodes), {id(node) for node in nodes}
    while pending:
        for tensor in pending.pop().outputs:
            found.append(tensor)
            for reader in (*tensor.outputs, *handed_out.get(id(tensor), ())):
                if id(reader) not in seen:
                    seen.add(id(reader))
                    pending.append(reader)
    return found


def _dimension(size: Any) -> int | str | None:
    """Return a dimension as it may be relied upon: a file may say -1 for one that is not known."""
    if isinstance(size, int | np.integer):
        return int(size) if size >= 0 else None
    return str(size) if size is not None else None
