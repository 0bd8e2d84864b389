"""Give a head a fixed number of rows, for accelerators that refuse a varying one.

    box_features: [N, 256, 7, 7] -> Conv -> Flatten -> Gemm   ->   box_features: [1000, 256, 7, 7] -> the same

A head sees as many rows as there are boxes. The runtime goes through them `size` at a time, fills up what is missing
in the last slice and cuts the results back; the pass leaves it a note in the model. That is exact only where each row
is computed from itself alone, so every node on the way of the rows is looked at: its operator, axes and shapes, the
latter with a number of rows that occurs nowhere else. Then shapes are inferred anew, and the arithmetic on them that
became static is folded.

The batch is the leading dimension of the inputs in which it is not fixed, or of those that `inputs` names; other
inputs are parameters, which the note names, and which each run is given whole. Where none is open, those fixed to
`size` are taken.

It raises PassError when
1. a node mixes rows: it works along the leading dimension, moves it, gives each row a parameter of its own, uses the
   number of rows as a value, or is no operator known to keep rows apart (NonMaxSuppression, LSTM, If, custom ones)
2. an output does not depend on the rows
3. the batch is fixed already to another size
4. `inputs` names no input, or no input has a leading dimension
5. the name of the batch dimension is also that of another dimension of an input
6. in a recipe the whole graph would take another number of images than the source's batch, which is 1 where nothing is
   said

It only writes the note, and looks at no node, when
1. it has frozen the model before: what it folded then can't be told from parameters any more
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph.model import Model
from graphsurgery.operators.batch_rows import PROBE, Rows, counted_by
from graphsurgery.operators.static_shapes import fold_shapes, free_inputs, require_batch_of_source, shape_text, size_of
from graphsurgery.rewrite import BATCH_NOTE, Editor, GraphPass, PassContext

_SIZES = tuple(step * 10**power for power in range(5) for step in (1, 2, 5))


@dataclass(frozen=True)
class FreezeBatch(GraphPass):
    """`size` rows; `inputs` are those with rows."""

    name = "freeze-batch"
    effect = "exact"

    size: int
    inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be 1 or more, not {self.size}")

    @classmethod
    def suited(cls, model: Model, context: PassContext) -> FreezeBatch | None:
        """Return it with a size that the samples fill, in steps of 1, 2, 5, 10, ...; None without open rows."""
        graph = model.graph()
        open_ = [tensor.name for tensor in free_inputs(graph) if tensor.shape and size_of(tensor.shape[0]) is None]
        counts = [len(sample.load(name)) for sample in context.samples for name in open_ if name in sample]
        most = max(counts, default=0)
        return cls(next(size for size in _SIZES if size >= most)) if most and most <= _SIZES[-1] else None

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        note = json.loads(edit.metadata.get(BATCH_NOTE, "{}"))
        earlier = note.get("parameters", []) if note.get("size") == self.size else []
        batch = self._batch_inputs(graph, edit, earlier)
        names = [tensor.name for tensor in batch]
        require_batch_of_source(self.size, "the whole graph", edit)
        is_open = any(size_of(tensor.shape[0]) is None for tensor in batch)
        if is_open:
            fold_shapes(edit, frozen=False)  # what is static now can't be taken for the number of rows
        if is_open or note.get("size") != self.size:
            copy = Model.of(graph, edit.folder).graph()
            self._keep_apart(Editor(copy, self.name, edit.folder), names, PROBE if is_open else None)
        if is_open:
            _freeze(batch, self.size, edit)
            fold_shapes(edit, frozen=True)
        parameters = [tensor.name for tensor in free_inputs(graph) if tensor.name not in names]
        edit.metadata[BATCH_NOTE] = json.dumps(
            {"size": self.size, **({"parameters": parameters} if parameters else {})}
        )

    def _batch_inputs(self, graph: gs.Graph, edit: Editor, parameters: Collection[str]) -> list[gs.Variable]:
        """Return the inputs with rows; those that an earlier run took for `parameters` are none unless named now."""
        named = {tensor.name: tensor for tensor in free_inputs(graph)}
        absent = [name for name in self.inputs if name not in named]
        if absent:
            raise edit.fail(f"there is no input '{absent[0]}'; the model has {', '.join(named) or 'none'}")
        ranked = [t for t in named.values() if t.shape and (not self.inputs or t.name in self.inputs)]
        batch = [t for t in ranked if self.inputs or size_of(t.shape[0]) is None]
        batch = batch or [t for t in ranked if size_of(t.shape[0]) == self.size and t.name not in parameters]
        listed = ", ".join(f"{t.name} {shape_text(t.shape)}" for t in ranked) or "none with a known rank"
        if not batch or len(batch) < len(self.inputs):
            raise edit.fail(f"no batch to set to {self.size}; inputs: {listed}; name those with rows, or export anew")
        for tensor in batch:
            if size_of(tensor.shape[0]) not in (None, self.size):
                raise edit.fail(
                    f"the batch of input '{tensor.name}' {shape_text(tensor.shape)} is fixed already, "
                    f"not to {self.size}; export the model with a dynamic batch"
                )
        symbols = {tensor.shape[0] for tensor in batch if isinstance(tensor.shape[0], str)}
        for tensor in named.values():
            start = 1 if any(tensor is other for other in batch) else 0
            shared = symbols.intersection(size for size in (tensor.shape or [])[start:] if isinstance(size, str))
            if shared:
                raise edit.fail(
                    f"dimension '{shared.pop()}' is the batch, but also in input '{tensor.name}' "
                    f"{shape_text(tensor.shape)}; give that dimension another name, or list the input in inputs"
                )
        return batch

    def _keep_apart(self, edit: Editor, names: list[str], probe: int | None) -> None:
        """Raise PassError unless each row of the results depends on its own row only; this spoils the graph.

        `probe` is the number of rows to try; None: it is fixed already.
        """
        graph = edit.root
        graphs.drop_unused(graph)
        graphs.sort(graph)
        batch = [tensor for tensor in graph.inputs if tensor.name in names]
        counted = counted_by(graph.nodes, batch) if probe else set()
        if probe:
            _freeze(batch, probe, edit)
        fold_shapes(edit, frozen=probe is not None)
        graphs.drop_unused(graph)
        rows = Rows(probe or self.size, edit.opset, {id(tensor) for tensor in batch}, counted, probe is not None)
        mixing = rows.follow(graph.nodes)
        if mixing is not None:
            node, reason = mixing
            raise edit.fail(
                f"node '{node.name or node.outputs[0].name}' ({node.op}) mixes rows: {reason}; "
                "cut the model before it, or leave its batch dynamic"
            )
        for output in graph.outputs:
            if id(output) not in rows.rows:
                raise edit.fail(f"output '{output.name}' does not depend on the rows of {', '.join(names)}; cut it off")


def _freeze(batch: list[gs.Variable], size: int, edit: Editor) -> None:
    for tensor in batch:
        edit.retype(tensor, shape=[size, *tensor.shape[1:]])
