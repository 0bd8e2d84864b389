"""Plays a graph node by node, each node in a session of its own, and lets go of every tensor after its last reader.

To see inside a graph one usually makes every tensor an output; then all of them are in memory at once. Here as many
are as the graph needs at its widest place, weights are handed over one node at a time, and the price is a session for
each node, 0.4 ms. Graph optimisation is off. What computes a tensor is run when the tensor is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphsurgery.devices.session import Session
from graphsurgery.errors import GraphSurgeryError, ModelError, first_line
from graphsurgery.graph import STANDARD_DOMAINS
from graphsurgery.graph.outline import Outline, Value, Values, label, plain

# A second thread is worth its start for these alone.
_HEAVY = frozenset(["Conv", "ConvTranspose", "Gemm", "If", "Loop", "MatMul", "RoiAlign", "Scan"])


@dataclass(frozen=True)
class Failure:
    """Why a tensor can't be computed; `node` is the one that fails, which may stand before its writer."""

    node: str
    reason: str

    def __str__(self) -> str:
        return f"node {self.node} can't be run: {self.reason}"


class Steps:
    """One run of a graph: computes the `wanted` tensors when they are asked for, in any order.

    What is `given` is taken as it is, whatever writes it. A wanted tensor must be released when it is done with, as
    often as it is among the wanted.
    Where `twin`, a run of another version of the graph, holds what an equal node made of the very same values, that is
    taken over: equal nodes of two versions run once.
    """

    def __init__(self, outline: Outline, given: Values, wanted: Sequence[str], twin: Steps | None = None) -> None:
        self._outline = outline
        self._twin = twin if twin is not None and outline.same_setting(twin._outline) else None
        self._given = given  # held, so that no other value gets the id of one
        # two values with one mark are the same; a value's id would be another's once it is gone
        self._marks: dict[str, object] = {name: id(value) for name, value in given.items()}
        self._fixed = set(given)
        self._needed = outline.ancestors(wanted, self._fixed)
        self._left = Counter(name for index in self._needed for name in outline.reads[index])
        self._left.update(wanted)
        self._values: dict[str, Value | Failure] = {n: v for n, v in given.items() if self._left[n]}

    def get(self, name: str) -> Value | Failure:
        """Return a wanted tensor, running what it takes."""
        if name not in self._values and name in self._outline.writer:
            pending = [self._outline.writer[name]]
            while pending:
                missing = self._missing(pending[-1])
                if missing:
                    pending.extend(missing)
                else:
                    self._run(pending.pop())
        if name in self._values:
            return self._values[name]
        try:
            return self._outline.value(name) if name in self._outline.constants else Failure("", "nothing writes it")
        except ModelError as error:
            return Failure("", str(error))

    def is_shared(self, name: str, other: str) -> bool:
        """Whether the tensor `name` was taken over from the twin, where it is called `other`."""
        return self._twin is not None and name in self._marks and self._marks[name] == self._twin._marks.get(other)

    def put(self, name: str, value: Value) -> None:
        """Take `value` for a tensor whatever its writer gives."""
        self._fixed.add(name)
        self._marks[name] = object() if self._twin is None else self._twin._marks.get(name, object())
        if self._left[name]:
            self._values[name] = value

    def release(self, names: Iterable[str]) -> None:
        """Let go of wanted tensors; nodes that have not run yet may still need them."""
        for name in names:
            self._left[name] -= 1
            if self._left[name] <= 0:
                self._values.pop(name, None)

    def abandon(self, name: str) -> None:
        """Never compute a tensor, nor what only it would need: nobody will ask for what depends on it."""
        pending = [self._outline.writer.get(name, -1)]
        while pending:
            index = pending.pop()
            if index not in self._needed:
                continue
            self._needed.discard(index)
            self.release(self._outline.reads[index])
            for read in self._outline.reads[index]:
                writer = self._outline.writer.get(read, -1)
                if writer >= 0 and all(self._left[each] <= 0 for each in self._outline.nodes[writer].output if each):
                    pending.append(writer)

    def _missing(self, index: int) -> list[int]:
        """Return the nodes that must run before this one; none where it has run."""
        if index not in self._needed:
            return []
        writer = self._outline.writer
        return [writer[n] for n in self._outline.reads[index] if n not in self._values and n in writer]

    def _run(self, index: int) -> None:
        if index not in self._needed:  # has run
            return
        self._needed.discard(index)
        node, names = self._outline.nodes[index], self._outline.reads[index]
        given = {name: self._values[name] for name in names if name in self._values}
        written: Mapping[str, Value | Failure]
        broken = next((value for value in given.values() if isinstance(value, Failure)), None)
        if broken is not None:
            written = {name: broken for name in node.output if name}
        else:
            taken = self._take_over(index)
            written = self._compute(index, given) if taken is None else taken  # type: ignore[arg-type]  # no Failure
        for name, value in written.items():
            if name not in self._fixed:
                self._marks.setdefault(name, object())
                if self._left[name]:
                    self._values[name] = value
        self.release(names)

    def _take_over(self, index: int) -> Mapping[str, Value | Failure] | None:
        """Return what the twin has computed with an equal node from the same values; None where it has not."""
        if self._twin is None:
            return None
        twin, mine = self._twin, self._outline
        written = [name for name in mine.nodes[index].output if name]
        other = twin._outline.writer.get(written[0]) if written else None
        if other is None or not mine.same_node(index, twin._outline, other):
            return None
        if any(name not in twin._values for name in written if self._left[name]):
            return None
        for name in mine.reads[index]:
            if name in self._marks or name in twin._marks:
                if self._marks.get(name) != twin._marks.get(name):
                    return None
            elif not mine.same_constant(name, twin._outline):
                return None
        self._marks.update((name, twin._marks[name]) for name in written if name in twin._marks)
        return {name: twin._values[name] for name in written if self._left[name]}

    def _compute(self, index: int, given: Values) -> Mapping[str, Value | Failure]:
        node = self._outline.nodes[index]
        threads = 0 if node.op_type in _HEAVY or node.domain not in STANDARD_DOMAINS else 1
        try:
            session = Session(self._outline.step(index, given), name="it", threads=threads)
            wanted = [name for name in node.output if name and self._left[name]]
            # what ONNX Runtime returns keeps all memory of its session alive, the scratch space of a Loop included
            return {name: _copied(plain(value)) for name, value in session.run(given, wanted).items()}
        except (
            GraphSurgeryError,
            TypeError,
            ValueError,
        ) as error:  # a type that numpy, or onnx's helper, has no word for
            failure = Failure(label(node), first_line(error).removeprefix("it: "))
            return {name: failure for name in node.output if name}


def _copied(value: Value) -> Value:
    return [np.array(item) for item in value] if isinstance(value, list) else np.array(value)
