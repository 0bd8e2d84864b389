"""Let int64 tensors whose values provably fit be int32, the widest integer that most accelerators have.

    Gather(x, indices: int64 [0, 2])                ->  Gather(x, indices: int32 [0, 2])
    Gather(table, Add(ArgMax(x), 1))                ->  Gather(table, Add(Cast(ArgMax(x), to=INT32), 1: int32))
    Mul(Cast(mask, to=INT64), 3) -> Cast(to=FLOAT)  ->  Mul(Cast(mask, to=INT32), 3: int32) -> Cast(to=FLOAT)
    Slice(x, starts, ends: int64 maximum, ..)       ->  Slice(x, starts, ends: int32 maximum, ..)

Values are bounded by interval arithmetic from constants, from Casts of narrow types, and from operators that count
within a known size: ArgMax, ArgMin, TopK, NonZero, NonMaxSuppression, Range. An operator computes in int32 if all
that it reads and writes fits, so nothing ever wraps around. What a counting operator gives stays int64, as the
specification demands of most, and a Cast follows it. No Cast back to int64 is ever needed: what Reshape, Expand,
Tile, TopK and others read must be int64, so all that computes it stays. So does arithmetic on a Shape: a host does
it, or `fold-constants` before. The model's inputs and outputs, and those of If, Loop and Scan bodies, keep their types.

It does not fire when
1. nothing bounds a value: it comes from an input, from a size that is not known, from a float, out of a body
2. a value, or one on the way to it, may lie outside of int32
3. the result is read as int64, or is a graph output
4. the operator set has no such operator of int32 (Clip, Min and Max before 12)
5. a Slice starts or ends beyond int32, and nothing tells that the axis is shorter
6. `keep` names the operator
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from graphsurgery import graph as graphs
from graphsurgery.graph import attribute, consumers, is_op, producer
from graphsurgery.operators.axes import bounds
from graphsurgery.operators.schemas import input_at, schema_of
from graphsurgery.operators.value_ranges import INT32, MOVES, Intervals, fits
from graphsurgery.rewrite import Editor, GraphPass

# Per operator: the groups of inputs and outputs that have one type in common; None stands for all inputs.
_Signature = tuple[tuple[int, ...] | None, bool]  # the inputs, and whether the outputs belong to them
_GROUPS: dict[str, list[_Signature]] = {
    **{op: [(places, True)] for op, places in MOVES.items()},
    **{op: [(None, True)] for op in ("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Clip", "Neg", "Abs", "Concat")},
    **{op: [(None, False)] for op in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")},
    **{op: [((0,), True), ((1,), False)] for op in ("Gather", "GatherElements")},
    **{op: [((), True)] for op in ("Cast", "ConstantOfShape")},
    **{op: [((1,), False)] for op in ("Scatter", "ScatterElements")},
    "Slice": [((0,), True), ((1, 2, 3, 4), False)],
}
# Range could give int32, but ONNX Runtime (1.31) takes what it finds out about a Range's inputs for int64.
_COUNTS = ("ArgMax", "ArgMin", "TopK", "NonZero", "NonMaxSuppression", "Range")
_READS_ANY_INTEGER = ("Cast", "Shape", "Size")


@dataclass(frozen=True)
class CastInt64(GraphPass):
    """`keep` names operators that stay as they are."""

    name = "cast-int64"
    effect = "exact"

    keep: tuple[str, ...] = ()

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        if edit.opset < 7:
            return edit.skip(None, f"operator set {edit.opset} is too old: 7 is needed")
        graphs.drop_unused(graph)  # an unused node demands nothing
        graphs.sort(graph)
        plan = _Plan(edit, Intervals(edit), self.keep)
        plan.decide()
        for group in plan.groups:
            if group.refusal is not None:
                edit.skip(group.node, group.refusal)
        for inner in graphs.walk_graphs(graph):
            edit.graph = inner
            for group in plan.chosen(inner):
                _convert(group, edit, plan.made)
        edit.graph = graph


@dataclass
class _Group:
    """Some inputs of a node, at the places `at`, that have one type, and its outputs if they have it too."""

    node: gs.Node
    graph: gs.Graph
    at: tuple[int, ...]
    outputs: tuple[gs.Tensor, ...]
    refusal: str | None = None

    @property
    def inputs(self) -> list[gs.Tensor]:
        return [self.node.inputs[index] for index in self.at]


@dataclass
class _Plan:
    """Which groups become int32: at first all whose values fit, then without those that others do not allow."""

    edit: Editor
    intervals: Intervals
    keep: tuple[str, ...]
    groups: list[_Group] = field(default_factory=list)
    made: dict[tuple[int, int], gs.Tensor] = field(default_factory=dict)  # int32 versions, by graph and tensor

    def __post_init__(self) -> None:
        for graph in graphs.walk_graphs(self.edit.root):
            for node in graph.nodes:
                for at, with_outputs in _GROUPS.get(node.op, []) if is_op(node, node.op) else []:
                    self._add(node, graph, at, with_outputs)
        self._writer = {id(tensor): group for group in self.groups for tensor in group.outputs}
        self._reader = {(id(group.node), index): group for group in self.groups for index in group.at}
        self._outputs = {id(t) for graph in graphs.walk_graphs(self.edit.root) for t in graph.outputs}

    def _add(self, node: gs.Node, graph: gs.Graph, at: tuple[int, ...] | None, with_outputs: bool) -> None:
        places = range(len(node.inputs)) if at is None else at
        present = tuple(index for index in places if index < len(node.inputs) and node.inputs[index].name)
        outputs = tuple(tensor for tensor in node.outputs if tensor.name) if with_outputs else ()
        typed = [*(node.inputs[index] for index in present), *outputs]
        if typed and all(self.edit.dtype(tensor) == np.int64 for tensor in typed):
            self.groups.append(_Group(node, graph, present, outputs))

    def decide(self) -> None:
        """Note for each group why it stays int64, if it does, until no decision changes another."""
        for group in self.groups:
            group.refusal = self._why_not(group)
        changed = True
        while changed:  # forward for what a group reads, backward for who reads it: mostly twice
            changed = False
            for order, question in ((self.groups, self._lacks), (self.groups[::-1], self._demanded)):
                for group in order:
                    if group.refusal is None:
                        group.refusal = question(group)
                        changed = changed or group.refusal is not None

    def chosen(self, graph: gs.Graph) -> list[_Group]:
        return [group for group in self.groups if group.refusal is None and group.graph is graph]

    def _why_not(self, group: _Group) -> str | None:
        node = group.node
        if node.op in self.keep:
            return f"{node.op} is to be kept"
        if not _takes_int32(group, self.edit.opset):
            return f"operator set {self.edit.opset} has no {node.op} of int32"
        if is_op(node, "Slice") and not group.outputs:
            return _why_no_bounds(node, self.edit)
        for tensor in (*group.inputs, *group.outputs):
            interval = self.intervals.of(tensor)
            if interval is None:
                return f"nothing bounds the values of '{tensor.name}'"
            if not fits(interval):
                return f"the values of '{tensor.name}' may be from {interval[0]} to {interval[1]}"
        return None

    def _lacks(self, group: _Group) -> str | None:
        for tensor in group.inputs:
            writer = self._writer.get(id(tensor))
            if writer is not None and writer.refusal is None:
                continue
            if not graphs.is_constant(tensor) and not is_op(producer(tensor), *_COUNTS):
                return f"'{tensor.name}' stays int64"
        return None

    def _demanded(self, group: _Group) -> str | None:
        for tensor in group.outputs:
            if id(tensor) in self._outputs:
                return f"'{tensor.name}' is a graph output"
            for reader in {id(node): node for node in consumers(tensor)}.values():
                for index, read in enumerate(reader.inputs):
                    if read is tensor and not self._accepts(reader, index):
                        return f"{reader.op} '{reader.name or reader.outputs[0].name}' reads '{tensor.name}' as int64"
        return None

    def _accepts(self, reader: gs.Node, index: int) -> bool:
        group = self._reader.get((id(reader), index))
        return is_op(reader, *_READS_ANY_INTEGER) if group is None else group.refusal is None


def _takes_int32(group: _Group, opset: int) -> bool:
    schema = schema_of(group.node, opset)
    if schema is None:
        return False
    declared = [*(input_at(schema, index) for index in group.at), *(schema.outputs[:1] if group.outputs else ())]
    return all("tensor(int32)" in each.types for each in declared)


def _why_no_bounds(node: gs.Node, edit: Editor) -> str | None:
    """Say why the bounds of a Slice can't be int32; beyond int32 they may lie where they reach past a known size."""
    found = bounds(node)
    if found is None:
        return "its bounds are not constant"
    for bound in found:
        if not fits((bound.step, bound.step)):
            return f"its step is {bound.step}"
        if fits((min(bound.start, bound.end), max(bound.start, bound.end))):
            continue
        shape = edit.shape(node.inputs[0])
        size = shape[bound.axis] if shape is not None and -len(shape) <= bound.axis < len(shape) else None
        if not isinstance(size, int) or size > INT32[1]:
            return f"it reaches from {bound.start} to {bound.end} on axis {bound.axis}, whose size is not known"
    return None


def _convert(group: _Group, edit: Editor, made: dict[tuple[int, int], gs.Tensor]) -> None:
    node = group.node
    for index in group.at:
        edit.set_input(node, index, _as_int32(node.inputs[index], edit, made))
    if is_op(node, "Cast") and edit.dtype(node.inputs[0]) == np.int32:
        edit.bypass(node, node.inputs[0])
        return
    if is_op(node, "Cast"):
        edit.set_attribute(node, "to", int(TensorProto.INT32))
    elif is_op(node, "ConstantOfShape"):
        value = np.asarray(attribute(node, "value", None).values).astype(np.int32)
        edit.set_attribute(node, "value", gs.Constant("value", value))
    for tensor in group.outputs:
        if tensor.dtype is not None:
            edit.retype(tensor, dtype=np.dtype(np.int32))
        for reader in consumers(tensor):  # a Cast of the model's own has nothing left to do
            if _is_cast_to_int32(reader) and not edit.is_output(reader.outputs[0]):
                edit.bypass(reader, tensor)


def _is_cast_to_int32(node: gs.Node) -> bool:
    return is_op(node, "Cast") and bool(attribute(node, "to", 0) == TensorProto.INT32)


def _as_int32(tensor: gs.Tensor, edit: Editor, made: dict[tuple[int, int], gs.Tensor]) -> gs.Tensor:
    """Return what to read in place of `tensor`: itself where it has become int32."""
    value = graphs.constant(tensor)
    if (value is None and not is_op(producer(tensor), *_COUNTS)) or edit.dtype(tensor) == np.int32:
        return tensor
    key, hint = (id(edit.graph), id(tensor)), f"{tensor.name}_int32"
    if key not in made and value is not None:
        made[key] = edit.constant(hint, np.clip(value, *INT32).astype(np.int32))
    elif key not in made:
        own = (node for node in edit.graph.nodes if _is_cast_to_int32(node) and node.inputs[0] is tensor)
        cast = next(own, None)
        to_int32 = {"to": int(TensorProto.INT32)}
        made[key] = edit.emit("Cast", [tensor], to_int32, hint=hint) if cast is None else cast.outputs[0]
    return made[key]
