"""Cuts pieces out of a graph, each a model of its own with captured inputs, and tries whether a pass breaks them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import GraphProto, ValueInfoProto, helper

from graphsurgery.debugging.breaks import Break, judge
from graphsurgery.debugging.stepping import Failure, Steps
from graphsurgery.errors import GraphSurgeryError, InputError, ModelError
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.graph.model import Model
from graphsurgery.graph.outline import Outline, Value, Values, constant_of, typed
from graphsurgery.rewrite import Pass
from graphsurgery.rewrite.editor import Editor

if TYPE_CHECKING:
    from graphsurgery.progress import Watcher

# Captured values that are kept between two tries; more are computed again.
_KEPT_BYTES = 512 << 20


@dataclass(frozen=True)
class Piece:
    """Some nodes of a graph as a model, and what it is given."""

    nodes: tuple[int, ...]
    model: Model
    given: Mapping[str, Value]
    broken: Break


class Cutter:
    """Cuts pieces out of a graph and tries them."""

    def __init__(self, outline: Outline, given: Values, pass_: Pass, tolerances: Tolerances, broken: Break) -> None:
        self.outline = outline
        self.pass_ = pass_
        self.tolerances = tolerances
        self.broken = broken
        self._given = given
        self._kept: dict[str, Value] = dict(given)
        self._rank = {index: rank for rank, index in enumerate(outline.order)}
        self._stored = {node.output[0]: i for i, node in enumerate(outline.nodes) if constant_of(node) is not None}
        self._readers: dict[str, set[int]] = {}
        for index, names in enumerate(outline.reads):
            for name in names:
                self._readers.setdefault(name, set()).add(index)
        self._types: dict[str, ValueInfoProto] | None = None
        self._tried: set[tuple[tuple[int, ...], tuple[str, ...]]] = set()

    def inside(self, outline: Outline, given: Values) -> Cutter:
        """Return a cutter of a body in this graph."""
        return Cutter(outline, given, self.pass_, self.tolerances, self.broken)

    def judge(self, model: Model, given: Values) -> Break | None:
        """Say how the pass breaks a model, if it does so as it breaks the whole."""
        try:
            found = judge(self.pass_, model, given, self.tolerances)
        except InputError:  # it is no model, or does not run
            return None
        return found if self.broken.is_like(found) else None

    def grow(self, start: Collection[int], watched: Sequence[str]) -> Piece | None:
        """Return the least surroundings of some nodes in which the pass breaks, doubling their width each time.

        What nodes outside read is an output, as it has to stay; if that does not do, what is `watched` is one too.
        """
        nodes = set(start)
        wave, width = nodes, 1
        while nodes:
            ends = self._ends(nodes)
            piece = self.attempt(nodes, ends) or self.attempt(nodes, list(dict.fromkeys([*ends, *watched])))
            if piece is not None:
                return piece
            before = len(nodes)
            for _ in range(width):
                wave = self._around(wave) - nodes
                nodes = nodes | wave
            if len(nodes) == before:
                return None
            width *= 2
        return None

    def shrink(self, piece: Piece, watcher: Watcher) -> Piece:
        """Take nodes away, half of them, a quarter, one by one, until there is none that can go."""
        for report in piece.broken.reports[:1]:
            piece = self.attempt(piece.nodes, [report.name]) or piece
        self._keep(name for index in piece.nodes for name in self.outline.nodes[index].output)
        size = max(1, len(piece.nodes) // 2)
        total = len(piece.nodes)
        while True:
            before, at = len(piece.nodes), 0
            while at < len(piece.nodes) and len(piece.nodes) > 1:
                rest = piece.nodes[:at] + piece.nodes[at + size :]
                smaller = self._without(piece, rest)
                if smaller is None:
                    at += size
                else:
                    piece = smaller
                    watcher.advance(total - len(piece.nodes), total)
            if size == 1 and len(piece.nodes) == before:
                break
            size = max(1, size // 2)
        for name in piece.model.outputs:
            fewer = [other for other in piece.model.outputs if other != name]
            piece = (self.attempt(piece.nodes, fewer) if fewer else None) or piece
        return piece

    def _without(self, piece: Piece, rest: Collection[int]) -> Piece | None:
        """Try some of a piece's nodes: with its outputs as far as they are still there, then with all loose ends."""
        left = {name for index in rest for name in self.outline.nodes[index].output}
        outputs = [name for name in piece.model.outputs if name in left]
        found = self.attempt(rest, outputs) if outputs else None
        return found or self.attempt(rest, self._ends(rest, inside=True))

    def attempt(self, nodes: Collection[int], outputs: Sequence[str]) -> Piece | None:
        """Return the piece of those of `nodes` that `outputs` need, if the pass breaks it."""
        inside = set(nodes)
        needed = self._needed(inside, outputs)
        key = tuple(sorted(needed, key=self._rank.__getitem__)), tuple(outputs)
        if not needed or key in self._tried:
            return None
        self._tried.add(key)
        try:
            model, given = self._cut(key[0], outputs)
        except (GraphSurgeryError, ValueError, TypeError):
            return None
        broken = self.judge(model, given)
        return None if broken is None else Piece(key[0], model, given, broken)

    def _needed(self, inside: set[int], outputs: Sequence[str]) -> set[int]:
        found: set[int] = set()
        pending = list(outputs)
        while pending:
            index = self.outline.writer.get(pending.pop())
            if index is not None and index in inside and index not in found:
                found.add(index)
                pending.extend(self.outline.reads[index])
        return found

    def _ends(self, nodes: Collection[int], *, inside: bool = False) -> list[str]:
        """Return what the nodes write and nobody among them reads; and, unless `inside`, what others read as well."""
        here = set(nodes)
        ends = []
        for index in sorted(here, key=self._rank.__getitem__):
            for name in self.outline.nodes[index].output:
                readers = self._readers.get(name, set())
                outside = name in self.outline.outputs or bool(readers - here)
                if name in self.outline.writer and (not readers & here or (outside and not inside)):
                    ends.append(name)
        return ends

    def _around(self, nodes: Collection[int]) -> set[int]:
        found: set[int] = set()
        for index in nodes:
            for name in self.outline.reads[index]:
                if name in self.outline.writer:
                    found.add(self.outline.writer[name])
            for name in self.outline.nodes[index].output:
                found |= self._readers.get(name, set())
        return found

    def _cut(self, nodes: Sequence[int], outputs: Sequence[str]) -> tuple[Model, dict[str, Value]]:
        """Return nodes as a model of their own, and the captured values of its inputs."""
        outline = self.outline
        source = outline.model.proto.graph
        written = {name for index in nodes for name in outline.nodes[index].output}
        read = dict.fromkeys(name for index in nodes for name in outline.reads[index] if name not in written)
        held = sorted(self._stored[name] for name in read if name in self._stored)
        graph = GraphProto(name=source.name or "piece")
        graph.node.extend(outline.nodes[index] for index in (*held, *nodes))
        inputs = [name for name in (*outline.inputs, *(n for n in read if n not in outline.inputs)) if name in read]
        inputs = [name for name in inputs if name not in outline.constants]
        given = self._values(inputs)
        graph.input.extend(self._type(name) for name in inputs)
        overridable = {info.name: info for info in source.input}
        for name in read:
            if name in outline.constants and name not in self._stored:
                graph.initializer.add().CopyFrom(outline.constants[name])
                if name in overridable:
                    graph.input.append(overridable[name])
        graph.output.extend(self._type(name) for name in outputs)
        graph.value_info.extend(info for info in source.value_info if info.name in written and info.name not in outputs)
        return Model(outline.around(graph)), given

    def _type(self, name: str) -> ValueInfoProto:
        """Return what the pass could know of a tensor in the whole graph: its inferred type, or its rank at least."""
        if self._types is None:
            self._types = self._infer()
        if name not in self._types:
            raise ModelError(f"nothing is known of '{name}'")
        return self._types[name]

    def _infer(self) -> dict[str, ValueInfoProto]:
        outline = self.outline
        view = outline.model.graph()
        with contextlib.suppress(GraphSurgeryError):  # a pass may crash on a model whose shapes can't be inferred
            Editor(view, self.pass_.name, outline.model.folder).infer_shapes()
        found: dict[str, ValueInfoProto] = {}
        for tensor in (*view.inputs, *(t for node in view.nodes for t in node.outputs)):
            if tensor.name and tensor.dtype is not None and tensor.shape is not None:
                kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
                found[tensor.name] = helper.make_tensor_value_info(tensor.name, kind, list(tensor.shape))
        unknown = [name for name in (*outline.inputs, *outline.writer) if name not in found]
        steps = Steps(outline, self._given, unknown)
        for name in unknown:
            value = steps.get(name)
            if not isinstance(value, Failure):
                found[name] = typed(name, value, sizes=False)
            steps.release([name])
        return found

    def _values(self, names: Sequence[str]) -> dict[str, Value]:
        self._keep(names, needed=True)
        for name in names:
            if not isinstance(self._kept.get(name), np.ndarray):
                raise ModelError(f"'{name}' is no tensor, or can't be computed")
        return {name: self._kept[name] for name in names}

    def _keep(self, names: Iterable[str], *, needed: bool = False) -> None:
        """Compute tensors of the whole graph, as many as there is room for, and all that are `needed`."""
        missing = [name for name in names if name not in self._kept and name in self.outline.writer]
        if not missing:
            return
        room = _KEPT_BYTES - sum(_size(value) for value in self._kept.values())
        if needed and room < 0:
            self._kept = dict(self._given)
        steps = Steps(self.outline, self._given, missing)
        for name in missing:
            value = steps.get(name)
            if isinstance(value, Failure):
                continue
            room -= _size(value)
            if not needed and room < 0:
                return
            self._kept[name] = value
            steps.release([name])


def _size(value: Value) -> int:
    return value.nbytes if isinstance(value, np.ndarray) else sum(item.nbytes for item in value)
