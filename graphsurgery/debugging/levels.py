"""Two graphs side by side, and the way from the node that writes a tensor in both into its bodies.

If           the branch that its condition chooses, which both must choose
Loop, Scan   the body of the first iteration whose results differ, on the values that this iteration is given

Tensors of equal names are matched, but for names that a fold has moved:

    x ─ Conv ─ a ─ BatchNormalization ─ b ─ Relu ─ c        onnxsim folds the second node into the first, and
    x ─ Conv ─ a ─ Relu ─ c                                 what was b is called a

Of such a tensor the writer is the same operator with other constants or attributes, and the readers are others. Where
only the writer differs, a weight was changed; where only the readers do, nodes behind it came or went.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, helper

from graphsurgery.devices.session import Session
from graphsurgery.errors import GraphSurgeryError, ModelError
from graphsurgery.graph import STANDARD_DOMAINS
from graphsurgery.graph.model import Model
from graphsurgery.graph.outline import Outline, Value, Values, captured, changes, plain, typed

# Yields what an iteration is given, in the order of the body's inputs, and is sent what it returns.
Turns = Generator[list[Value], Sequence[Value], None]
Unlike = Callable[[str, Value, Value], bool]


@dataclass
class Level:
    """The graphs of two models, or the bodies of an If, Loop or Scan in both, and what they are given.

    `twins` maps A's tensors to B's of the same meaning: those of equal names, but for `moved` ones, and, in bodies, the
    outputs by position. `starts` does so for what comes in. `path` leads here from outside; `outer` is the level around
    this one, and the node of A there whose body this is.
    """

    a: Outline
    b: Outline
    given_a: Values
    given_b: Values
    path: tuple[str, ...] = ()
    starts: dict[str, str] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)
    outer: tuple[Level, int] | None = None
    moved: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        a, b = self.a, self.b
        for name in self.given_b:
            if name in self.given_a or name in a.writer:
                self.starts.setdefault(name, name)
        paired = set(self.twins.values())
        for name in (*a.writer, *a.constants):
            computed = name in b.writer or (name in b.constants and (name in a.writer or name in a.outputs))
            if not computed or name in paired or name in self.twins:
                continue
            if _has_moved(name, a, b):
                self.moved.append(name)
            else:
                self.twins[name] = name

    @property
    def random(self) -> set[str]:
        """The matched tensors, by A's names, that a random node writes in either model."""
        a, b = self.a, self.b
        return {n for n, t in self.twins.items() if a.writer.get(n) in a.random or b.writer.get(t) in b.random}

    @property
    def random_alone(self) -> set[str]:
        """What random nodes write that is not matched."""
        one = {name for index in self.a.random for name in self.a.nodes[index].output} - set(self.twins)
        other = {name for index in self.b.random for name in self.b.nodes[index].output} - set(self.twins.values())
        return (one | other) - {""}

    def fronts(self, outline: Outline, stops: Collection[str] = ()) -> dict[str, frozenset[str]]:
        """Return for each matched tensor, by A's name, the nearest ones that it depends on in `outline`, a or b.

        Those are matched, a start, or among `stops`.
        """
        pairs = {**self.starts, **self.twins}
        called = {twin: name for name, twin in pairs.items()} if outline is self.b else {name: name for name in pairs}
        called.update((name, name) for name in stops)
        reach: dict[str, frozenset[str]] = {}
        found: dict[str, frozenset[str]] = {}
        nothing: frozenset[str] = frozenset()
        for index in outline.order:
            before = [frozenset([called[n]]) if n in called else reach.get(n, nothing) for n in outline.reads[index]]
            union = nothing.union(*before)
            for name in outline.nodes[index].output:
                if name in called:
                    found[called[name]] = union
                else:
                    reach[name] = union
        return found


def _has_moved(name: str, a: Outline, b: Outline) -> bool:
    """Whether the name of a tensor of both graphs is likely that of another one in B, as a fold leaves it."""
    one, other = a.writer.get(name), b.writer.get(name)
    if one is None or other is None or name in (*a.outputs, *b.outputs):
        return False
    if a.readers.get(name) == b.readers.get(name) or one in a.random or other in b.random:
        return False
    nodes = a.nodes[one], b.nodes[other]
    if nodes[0].op_type != nodes[1].op_type or nodes[0].domain != nodes[1].domain:
        return False
    return any(True for _ in changes(a, one, b, other))


def enter(level: Level, node_a: int, node_b: int, values_a: Values, values_b: Values, unlike: Unlike) -> Level | str:
    """Return the level in the bodies of two nodes, or why there is none; "" where they have no bodies.

    `values_a` and `values_b` are what the nodes read. `unlike` says whether two values of a tensor differ.
    """
    one, other = Side(level.a, node_a, values_a), Side(level.b, node_b, values_b)
    kinds = {one.kind, other.kind}
    if len(kinds) != 1 or kinds.isdisjoint(("If", "Loop", "Scan")):
        return ""
    try:
        if one.kind == "If":
            taken = one.condition()
            if taken != other.condition():
                return f"its condition is {taken} in A and {not taken} in B"
            branch = "then_branch" if taken else "else_branch"
            return _inside(level, one, other, branch, {}, {}, f"If '{one.name}' {branch}")
        return _first_turn(level, one, other, unlike)
    except GraphSurgeryError as error:
        return f"its body can't be run by itself: {error}"


@dataclass
class Side:
    """A node with bodies in one of the two models, and the values that it reads."""

    outline: Outline
    index: int
    values: Values
    _sessions: dict[tuple[Any, ...], Session] = field(default_factory=dict)

    @property
    def node(self) -> NodeProto:
        return self.outline.nodes[self.index]

    @property
    def kind(self) -> str:
        return self.node.op_type if self.node.domain in STANDARD_DOMAINS else ""

    @property
    def name(self) -> str:
        return self.node.name or next(iter(self.node.output), "")

    def attribute(self, name: str, default: Any = None) -> Any:
        return next((helper.get_attribute_value(a) for a in self.node.attribute if a.name == name), default)

    def value(self, position: int) -> Value | None:
        """Return an input of the node, None where it is left out."""
        name = self.node.input[position] if position < len(self.node.input) else ""
        if not name:
            return None
        return self.values[name] if name in self.values else self.outline.value(name)

    def condition(self) -> bool:
        return bool(np.asarray(self.value(0)).reshape(()))

    def body(self, attribute: str, given: Mapping[str, Value]) -> tuple[Outline, Values]:
        """Return a body as a graph of its own, and all that it is given: `given`, and what it takes from outside."""
        body: GraphProto = self.attribute(attribute)
        graph = GraphProto()
        graph.CopyFrom(body)
        for info in graph.input:
            if info.name in given:  # a body need not write its inputs' types down
                info.CopyFrom(typed(info.name, given[info.name]))
        taken = captured(body)
        self.outline.feed(graph, taken, self.values)
        outside = {name: self.values[name] for name in taken if name in self.values}
        return Outline(Model(self.outline.around(graph))), {**outside, **given}

    def turns(self) -> Turns:
        """Return what goes in and out of each iteration. Raises ModelError for Scan before opset 9."""
        return _loop_turns(self) if self.kind == "Loop" else _scan_turns(self)

    def named(self, values: Sequence[Value]) -> dict[str, Value]:
        """Return what an iteration is given by the names of the body's inputs."""
        return {info.name: value for info, value in zip(self.attribute("body").input, values, strict=True)}

    def play(self, given: Mapping[str, Value]) -> list[Value]:
        """Run one iteration as a whole."""
        kinds = tuple((name, *_kind(value)) for name, value in given.items())
        names = [info.name for info in self.attribute("body").output]
        if kinds not in self._sessions:
            outline, _ = self.body("body", given)
            self._sessions[kinds] = Session(outline.model.proto, name=f"the body of '{self.name}'")
        found = self._sessions[kinds].run({**self.values, **given}, list(dict.fromkeys(names)))
        return [plain(found[name]) for name in names]


def _first_turn(level: Level, one: Side, other: Side, unlike: Unlike) -> Level | str:
    """Run both bodies, iteration by iteration, up to the first whose results differ."""
    turns_a, turns_b = one.turns(), other.turns()
    into_a, into_b = _next(turns_a), _next(turns_b)
    names = [info.name for info in one.attribute("body").output]
    number = 1
    while into_a is not None and into_b is not None:
        given_a, given_b = one.named(into_a), other.named(into_b)
        from_a = one.play(given_a)
        try:
            from_b = other.play(given_b)
            differs = any(unlike(*each) for each in zip(names, from_a, from_b, strict=True))
        except GraphSurgeryError:  # the level inside will say which node fails
            differs = True
        if differs:
            return _inside(level, one, other, "body", given_a, given_b, f"{one.kind} '{one.name}' iteration {number}")
        into_a, into_b = _next(turns_a, from_a), _next(turns_b, from_b)
        number += 1
    if into_a is None and into_b is None:
        return f"its {number - 1} iterations give the same"
    return f"it ends after {number - 1} iterations in {'A' if into_a is None else 'B'} alone"


def _next(turns: Turns, results: Sequence[Value] | None = None) -> list[Value] | None:
    try:
        return next(turns) if results is None else turns.send(results)
    except StopIteration:
        return None


def _inside(
    level: Level, one: Side, other: Side, attribute: str, given_a: Values, given_b: Values, place: str
) -> Level:
    bodies = one.attribute(attribute), other.attribute(attribute)
    starts = {a.name: b.name for a, b in zip(bodies[0].input, bodies[1].input, strict=False)}
    outside = {**level.starts, **level.twins}
    taken = set(captured(bodies[1]))
    starts.update((name, outside[name]) for name in captured(bodies[0]) if outside.get(name) in taken)
    (a, values_a), (b, values_b) = one.body(attribute, given_a), other.body(attribute, given_b)
    twins = {
        first.name: second.name
        for first, second in zip(bodies[0].output, bodies[1].output, strict=False)
        if all(n in outline.writer or n in outline.constants for n, outline in ((first.name, a), (second.name, b)))
    }
    return Level(a, b, values_a, values_b, (*level.path, place), starts, twins, (level, one.index))


def _loop_turns(side: Side) -> Turns:
    limit, going = side.value(0), side.value(1)
    count = None if limit is None else int(np.asarray(limit).reshape(()))
    keep = True if going is None else bool(np.asarray(going).reshape(()))
    carried = [_present(side.value(position)) for position in range(2, len(side.node.input))]
    number = 0
    while keep and (count is None or number < count):
        results = yield [np.array(number, np.int64), np.array(keep), *carried]
        keep, carried = bool(np.asarray(results[0]).reshape(())), list(results[1 : 1 + len(carried)])
        number += 1


def _scan_turns(side: Side) -> Turns:
    scanned = side.attribute("num_scan_inputs")
    values = [_present(side.value(position)) for position in range(len(side.node.input))]
    if len(values) != len(side.attribute("body").input):
        raise ModelError("a Scan of opset 8 runs over batches")
    states, streams = values[: len(values) - scanned], [np.asarray(v) for v in values[len(values) - scanned :]]
    axes = side.attribute("scan_input_axes", [0] * scanned)
    backwards = side.attribute("scan_input_directions", [0] * scanned)
    total = streams[0].shape[axes[0]]
    for number in range(total):
        places = [total - 1 - number if back else number for back in backwards]
        slices: list[Value] = [np.take(s, at, axis) for s, at, axis in zip(streams, places, axes, strict=True)]
        results = yield [*states, *slices]
        states = list(results[: len(states)])


def _present(value: Value | None) -> Value:
    if value is None:
        raise ModelError("an input is left out")
    return value


def _kind(value: Value) -> tuple[Any, ...]:
    """Return what a session of the body depends on."""
    if isinstance(value, list):
        return ("sequence", *(item.dtype for item in value[:1]))
    return ("text" if value.dtype.kind == "U" else value.dtype, value.shape)
