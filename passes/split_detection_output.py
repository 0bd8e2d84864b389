"""Make outputs of their own of what a Concat joins into one although it differs by more than 10 times, for int8.

    boxes [1, 4, N] in pixels, scores [1, 80, N] -> Concat -> output [1, 84, N]    ->    outputs boxes, scores

A tensor of 8 bits has one scale: where boxes go up to 640, a step is 2.5, and all class scores become 0. How far each
goes is measured on the captured samples, where there are any; else it follows from the graph, such as 1 behind a
Sigmoid (operators/float_ranges.py). A Transpose behind the Concat goes too.

Put it among the passes on the whole graph, before `quantize`:

    passes: [split-detection-output, quantize]

The tensors keep the names they have inside, `rename-tensors` gives them others, and each is compared with what the
graph before computes for it. The manifest says that the output is these, joined along the Concat's axis. The runtime
does that before it reads detections out of the output, and the gate before it compares the output as before.

A host with a runtime of its own joins them, or not at all, since most read boxes and scores apart. Where it shall have
the one tensor, this pass is not needed: a `partition` leaves the Concat to the host part behind the last weights, so
that boxes and scores cross to it with a scale each, unless `include` takes it along:

    partition: {at: NonMaxSuppression, parts: {network: npu, decode: cpu}}
    part_passes: {network: [quantize]}

It leaves an output as it is when
1. it is not named in `outputs`, and its parts differ less, or nothing tells how far they go
2. no Concat writes it, or one of what that joins is a constant, an input, an output already, or joined twice, by it
   or by another output that is split
3. the pass before left a note that its masks are to be pasted

It raises PassError when the number of dimensions of a new output is not known.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import name_nearest
from graphsurgery.graph import producer
from graphsurgery.graph.joined_outputs import JOINS_NOTE, JoinedOutput, read_note, write_note
from graphsurgery.operators.float_ranges import FloatRanges, is_finite
from graphsurgery.operators.output_join import OutputJoin, output_join
from graphsurgery.rewrite import MASKS_NOTE, Editor, GraphPass, Refuse


@dataclass(frozen=True)
class SplitDetectionOutput(GraphPass):
    """`outputs` names those that are split however far they go; `times` is by how much others must differ."""

    name = "split-detection-output"
    effect = "exact"
    keeps_outputs = False
    matches = ("Concat",)

    outputs: tuple[str, ...] = ()
    times: float = 10.0

    def __post_init__(self) -> None:
        """Raise ValueError for a factor of less than 1."""
        super().__post_init__()
        if not self.times >= 1:
            raise ValueError(f"times is {self.times}; by how much the largest number differs is 1 or more")

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        present = {tensor.name: tensor for tensor in graph.outputs}
        for name in (name for name in self.outputs if name not in present):
            edit.skip(None, f"outputs: there is no output '{name}'.{name_nearest(name, present)}")
        graphs.sort(graph)
        outputs: list[gs.Tensor] = []
        joins: list[JoinedOutput] = []
        for output in graph.outputs:
            try:
                join = self._join(output, outputs, edit)
            except Refuse as refusal:
                edit.skip(producer(output), f"output '{output.name}' {refusal.reason}")
                outputs.append(output)
            else:
                outputs += join.tensors
                names = tuple(tensor.name for tensor in join.tensors)
                joins.append(JoinedOutput(output.name, names, join.axis, join.perm))
        if joins:
            for tensor in outputs:
                _write_down_type(tensor, graph, edit)
            edit.set_interface(outputs=outputs)
            earlier = read_note(edit.metadata.get(JOINS_NOTE, "[]"))  # of what is joined of the outputs split now
            edit.metadata[JOINS_NOTE] = write_note([*joins, *earlier])

    def _join(self, output: gs.Tensor, taken: Sequence[gs.Tensor], edit: Editor) -> OutputJoin:
        """Return what `output` joins if it is to be split; `taken` are outputs already."""
        if MASKS_NOTE in edit.metadata and json.loads(edit.metadata[MASKS_NOTE]) == output.name:
            raise Refuse("holds masks that are to be pasted")
        join = output_join(output, edit)
        shared = next((part.name for part in join.tensors if any(part is each for each in taken)), None)
        if shared is not None:
            raise Refuse(f"joins '{shared}', as another output does")
        if output.name not in self.outputs:
            self._require_difference(output, join, edit)
        return join

    def _require_difference(self, output: gs.Tensor, join: OutputJoin, edit: Editor) -> None:
        parts, largest = join.tensors, _measured(output, join, edit)
        if largest is None:
            ranges = FloatRanges(edit)
            found = [ranges.of(part) for part in parts]
            unknown = next((p.name for p, known in zip(parts, found, strict=True) if not is_finite(known)), None)
            if unknown is not None:
                raise Refuse(f"is left: nothing tells how far '{unknown}' goes; name the output in `outputs`")
            largest = [max(abs(low), abs(high)) for low, high in (known for known in found if known is not None)]
        if not max(largest) > self.times * min(largest):
            listed = " and ".join(f"{size:.3g}" for size in largest)
            raise Refuse(f"joins what goes up to {listed}, which differ by no more than {self.times:g} times")


def _measured(output: gs.Tensor, join: OutputJoin, edit: Editor) -> list[float] | None:
    """Return the largest magnitude that each part has in the captured samples; None where these don't tell."""
    shapes = [edit.shape(part) for part in join.tensors]
    sizes = [None if shape is None else shape[join.axis] for shape in shapes]
    known = [size for size in sizes if isinstance(size, int)]
    samples = [sample for sample in edit.context.samples if output.name in sample]
    if len(known) < len(sizes) or not samples:
        return None
    largest = [0.0] * len(known)
    borders = np.cumsum([0, *known])
    for sample in samples:
        value = sample.load(output.name)
        if value.shape[join.axis_of_output] != borders[-1]:
            return None
        for index, (start, end) in enumerate(pairwise(borders)):
            piece = np.take(value, range(start, end), join.axis_of_output)
            largest[index] = max(largest[index], float(np.abs(piece).max(initial=0.0)))
    return largest


def _write_down_type(tensor: gs.Tensor, graph: gs.Graph, edit: Editor) -> None:
    if not graphs.is_graph_output(tensor, graph):
        shape = edit.shape(tensor)
        if shape is None:
            raise edit.fail(f"the number of dimensions of '{tensor.name}' is not known, which an output must have")
        edit.retype(tensor, dtype=edit.dtype(tensor), shape=shape)
