"""Tensors that join values of ranges too far apart for one scale: boxes of up to 640 pixels and scores of up to 1, say.

A quantizer gives a tensor one step: the widest range over 255. To a range of a tenth of that 25 of the steps are left,
and none to scores beside 640 pixels, which are all rounded to 0. Looked at are

- the inputs of a Concat, and what ScatterND and ScatterElements write into a tensor
- the columns of an output that no such node makes, where a few groups of them stand side by side: [x, y, x, y, score]

With samples the ranges are measured. Without, they are what operators tell (`operators.float_ranges`): a Sigmoid lies
from 0 to 1, and of what stands beside it the range may not be known. Zeros alone have no range, and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto

from graphsurgery import graph as graphs
from graphsurgery.devices.session import Session
from graphsurgery.graph.model import Model
from graphsurgery.graph.shapes import infer_shapes
from graphsurgery.operators.float_ranges import FloatRanges
from graphsurgery.operators.operands import LAYERS
from graphsurgery.operators.output_join import JOINING, output_join
from graphsurgery.quantize import Calibration
from graphsurgery.quantize.ranges import Range, extremes
from graphsurgery.rewrite import Editor, Refuse
from graphsurgery.rewrite.context import PassesFor, none_known

FACTOR = 10
_TOLD = 2.0**40  # larger is what is taken for any layer's output: nothing is told of it
# An output with more groups of columns than this has none: its columns just differ.
_GROUPS = 4
_BOX = 4
_SCATTERS = ("Scatter", "ScatterElements", "ScatterND")
_MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Slice", "Gather")


@dataclass(frozen=True)
class Joined:
    """A tensor that joins ranges too far apart; `ranges` has what is joined, None where a range is not known.

    `cut` are the tensors to cut at, so that each goes on its own; none where the tensor is made in one piece. What is
    joined can be outputs in its place where it `is_output`. `layer` is the node that makes all of it, the last with
    weights, if one does.
    """

    tensor: str
    ranges: Mapping[str, Range | None]
    cut: tuple[str, ...] = ()
    is_output: bool = False
    layer: str | None = None

    def explain(self, outputs_apart: PassesFor = none_known) -> str:
        """Say in one line what is joined, and what avoids that; `outputs_apart` as PassContext has it."""
        parts = [f"{name} ({_said(span)})" for name, span in self.ranges.items()]
        shown = [*parts[:4], f"{len(parts) - 4} more"] if len(parts) > 5 else parts
        listed = f"{', '.join(shown[:-1])} and {shown[-1]}"
        loss = "one scale for all leaves little of the narrower"
        if not all(self.ranges.values()):
            loss = "if that is a wide one, one scale for both leaves nothing of the narrower"
        passes = outputs_apart(JOINING) if self.is_output else ()
        ways = [f"the pass {name} gives each an output of its own" for name in passes]
        if self.layer is not None:
            ways.append(f"node '{self.layer}' makes all of it: leave that float, or give each a layer of its own")
        elif self.cut:
            names = ", ".join("'" + name.replace("'", "''") + "'" for name in self.cut)
            ways.append(f"partition.at: {{tensors: [{names}]}} cuts before they meet")
        else:
            ways.append("partition.at: detections cuts before the decode")
        return f"'{self.tensor}' joins {listed}; {loss}; {', or '.join(ways)}"

    def to_json(self, outputs_apart: PassesFor = none_known) -> dict[str, Any]:
        """Return it as run.json and --json have it; `outputs_apart` as above."""
        ranges = {
            name: None if span is None else [float(f"{end:.6g}") for end in span] for name, span in self.ranges.items()
        }
        return {
            "tensor": self.tensor,
            "ranges": ranges,
            "cut": list(self.cut),
            "explanation": self.explain(outputs_apart),
        }


def told_by_structure(model: Model) -> list[Joined]:
    """Return the tensors that join ranges too far apart, or a known one with one that is not known.

    The latter only at the end of the network, where the known one is of at most 1: scores, beside what may be boxes.
    """
    graph = _inferred(model)
    edit = Editor(graph, "joined ranges")
    ranges_of, ends = FloatRanges(edit), _joined_by_outputs(edit)
    found = []
    for tensor, joined in _joins(graph):
        ranges = {each.name: _told(ranges_of, each) for each in joined}
        spans = [span for span in ranges.values() if span is not None]
        scores = not _feeds_layers(tensor) and any(0 < _reach(span) <= 1 for span in spans) and len(spans) < len(ranges)
        if _far_apart(spans) or scores:
            found.append(Joined(tensor.name, ranges, _computed(joined), tensor.name in ends))
    return found


def measured(model: ModelProto, calibration: Calibration) -> list[Joined]:
    """Return the tensors that join ranges too far apart over the calibration's runs.

    Raises ModelError and InputError as Session does.
    """
    graph = _inferred(Model(model))
    joins, ends = _joins(graph), _joined_by_outputs(Editor(graph, "joined ranges"))
    names = list(dict.fromkeys(each.name for _, joined in joins for each in joined if not graphs.is_constant(each)))
    spans = extremes(model, names, calibration, lambda done: None) if names else {}
    found = []
    for tensor, joined in joins:
        ranges = {each.name: spans.get(each.name) or _stored(each) for each in joined}
        if _far_apart([span for span in ranges.values() if span is not None]):
            found.append(Joined(tensor.name, ranges, _computed(joined), tensor.name in ends))
    made = {each.tensor for each in found}
    whole = [tensor for tensor in graph.outputs if not _made_by(tensor, made) and _is_float(tensor)]
    return found + _columns(model, whole, calibration)


def _told(ranges: FloatRanges, tensor: gs.Tensor) -> Range | None:
    found = ranges.of(tensor)
    return Range(*found) if found is not None and max(map(abs, found)) < _TOLD else None


def _inferred(model: Model) -> gs.Graph:
    graph = model.graph()
    infer_shapes(graph)
    graphs.sort(graph)
    return graph


def _is_float(tensor: gs.Tensor) -> bool:
    return bool(tensor.dtype == np.float32)


def _joins(graph: gs.Graph) -> list[tuple[gs.Tensor, list[gs.Tensor]]]:
    """Return each tensor that several are joined in, with those."""
    found = []
    for node in graph.nodes:
        joined = []
        if graphs.is_op(node, "Concat"):
            joined = list({tensor.name: tensor for tensor in node.inputs}.values())
        elif graphs.is_op(node, *_SCATTERS) and len(node.inputs) > 2:
            joined = [node.inputs[0], node.inputs[2]]
        if len(joined) > 1 and _is_float(node.outputs[0]):
            found.append((node.outputs[0], joined))
    return found


def _joined_by_outputs(edit: Editor) -> set[str]:
    """Return the tensors of which what they join can be outputs in the place of one."""
    found = set()
    for output in edit.root.outputs:
        with suppress(Refuse):
            found.add(output_join(output, edit).node.outputs[0].name)
    return found


def _computed(joined: Sequence[gs.Tensor]) -> tuple[str, ...]:
    return tuple(tensor.name for tensor in joined if not graphs.is_constant(tensor))


def _stored(tensor: gs.Tensor) -> Range | None:
    value = graphs.constant(tensor)
    return Range(float(value.min()), float(value.max())) if value is not None and value.size else None


def _reach(span: Range) -> float:
    """Return how wide a scale must be for a range: 0 has to be among its numbers."""
    return max(span.high, 0.0) - min(span.low, 0.0)


def _far_apart(spans: Sequence[Range]) -> bool:
    reached = [reach for span in spans if 0 < (reach := _reach(span)) < np.inf]
    return bool(reached) and max(reached) > FACTOR * min(reached)


def _feeds_layers(tensor: gs.Tensor) -> bool:
    pending, seen = [tensor], set()
    while pending:
        for reader in pending.pop().outputs:
            if graphs.is_op(reader, *LAYERS):
                return True
            if id(reader) not in seen:
                seen.add(id(reader))
                pending.extend(reader.outputs)
    return False


def _made_by(tensor: gs.Tensor, names: set[str]) -> bool:
    """Whether a tensor holds, but for where its elements stand, what one of `names` does."""
    return any(moved.name in names for moved in _moved(tensor))


def _moved(tensor: gs.Tensor) -> Iterator[gs.Tensor]:
    """Yield a tensor, and those that its elements come from, all of them, at other places."""
    yield tensor
    node = graphs.producer(tensor)
    while node is not None and graphs.is_op(node, *_MOVES):
        yield node.inputs[0]
        node = graphs.producer(node.inputs[0])


def _layer_of(tensor: gs.Tensor) -> str | None:
    """Return the name of the layer that a tensor comes from as it is, but for where its elements stand."""
    *_, first = _moved(tensor)
    node = graphs.producer(first)
    return (node.name or first.name) if node is not None and graphs.is_op(node, *LAYERS) else None


def _columns(model: ModelProto, outputs: Sequence[gs.Tensor], calibration: Calibration) -> list[Joined]:
    """Return the outputs whose columns have ranges too far apart, in groups that stand side by side."""
    axes = {tensor.name: axis for tensor in outputs if (axis := _column_axis(tensor)) is not None}
    layers = {tensor.name: _layer_of(tensor) for tensor in outputs}
    spans: dict[str, np.ndarray] = {}
    session = Session(model, name="the float model") if axes else None
    for inputs in calibration if session is not None else ():
        assert session is not None
        for name, value in session.run(inputs, list(axes)).items():
            rows = np.moveaxis(value, axes[name], 0).reshape(value.shape[axes[name]], -1)
            if rows.size and np.isfinite(rows).all():
                ends = np.stack([np.minimum(rows.min(1), 0), np.maximum(rows.max(1), 0)])
                before = spans.get(name, ends)
                spans[name] = np.stack([np.minimum(before[0], ends[0]), np.maximum(before[1], ends[1])])
    found = []
    for name, ends in spans.items():
        groups = _groups(ends)
        if 1 < len(groups) <= _GROUPS:
            ranges = {
                _columns_called(group, axes[name]): Range(float(ends[0][group].min()), float(ends[1][group].max()))
                for group in groups
            }
            found.append(Joined(name, ranges, layer=layers[name]))
    return found


def _column_axis(tensor: gs.Tensor) -> int | None:
    """Return the shortest axis that can hold a box and something more, the first left out: it counts images or rows.

    Of a map [N, C, H, W] it is the second: the others are places.
    """
    axes = list(enumerate(tensor.shape or ()))
    axes = axes[1:2] if len(axes) > 3 else axes[1:]
    sizes = [(size, axis) for axis, size in axes if isinstance(size, int)]
    fitting = [each for each in sizes if each[0] > _BOX]
    return min(fitting)[1] if fitting else None


def _groups(ends: np.ndarray) -> list[slice]:
    """Return the columns in groups; a new one begins where the range is another by more than the factor."""
    reach = ends[1] - ends[0]
    starts, last = [0], 0.0
    for place, width in enumerate(reach):
        if last and width and max(last, width) > FACTOR * min(last, width):
            starts.append(place)
        last = width or last
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(reach)], strict=True)]


def _columns_called(group: slice, axis: int) -> str:
    last = group.stop - 1
    places = f"{group.start} to {last}" if last > group.start else f"{group.start}"
    return f"{places} of axis {axis}"


def _said(span: Range | None) -> str:
    return "of unknown range" if span is None else f"{span.low:.3g} to {span.high:.3g}"
