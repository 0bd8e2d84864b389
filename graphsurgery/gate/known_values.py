"""What a graph computes on the samples, without computing again what is known bit for bit.

What earlier graphs computed is kept by history (`graph.histories`). Where a changed graph begins to differ from the one
before it, the tensors on both sides of the change are computed and compared: if they are the same bits, so is all that
lies behind them, and nothing more is run. Else it runs from what is known on. So a graph gets the very values that a
run of all of it would give; how they are judged has nothing to do with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphsurgery.capture.samples import Sample
from graphsurgery.devices.session import Session
from graphsurgery.errors import InputError
from graphsurgery.graph.histories import Histories, value_of
from graphsurgery.graph.model import Model

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]

# In memory, for all samples together: the outputs of Mask R-CNN on three samples, and its feature maps, take 0.9 GB.
BUDGET = 1 << 30
_NAME = "the whole graph"
_ROUNDS = 20  # in which what is known grows along the graph
# Tensors are kept along the graph so that what lies between two of them is this share of its depth.
_SEGMENTS = 16


@dataclass(frozen=True)
class _Plan:
    """How the tensors `names` of a graph are computed: `session` computes those that are not `known` already."""

    names: Sequence[str]
    known: Mapping[str, Sequence[Array]]
    session: Session | None
    samples: Sequence[Sample]

    def run(self, index: int) -> dict[str, Array]:
        """Return the values on one sample."""
        computed: Mapping[str, Array] = {}
        if self.session is not None:
            given = {
                name: self.known[name][index] if name in self.known else self.samples[index].load(name)
                for name in self.session.inputs
            }
            computed = self.session.run(given)
        return {name: computed[name] if name in computed else self.known[name][index] for name in self.names}


class KnownValues:
    """Runs graphs on `samples`, one after another, and keeps up to `budget` bytes of what they compute."""

    def __init__(self, samples: Sequence[Sample], budget: int = BUDGET) -> None:
        self._samples = samples
        self._budget = budget
        self._kept: dict[bytes, list[Array]] = {}
        self._last: Histories | None = None

    def outputs(self, model: Model, before: Mapping[str, str] | None = None) -> Iterator[Tensors]:
        """Yield what the outputs of `model` are on each sample.

        `before` says what they are called in the graph before, where that is not what they are called here. Raises
        ModelError for a graph that can't be loaded, InputError for one that can't be run.
        """
        Session(model.proto, name=_NAME)  # what can't be loaded is no graph, however little of it will be run
        traced = self._proven_same(Histories.of(model.proto), before or {})
        names = model.outputs
        checkpoints = traced.spread(traced.needed(names, self._known(traced)), _SEGMENTS)
        plan = self._plan(traced, list(dict.fromkeys([*names, *checkpoints])))
        keeps: list[str] = []
        kept: dict[bytes, list[Array]] = {}
        for index in range(len(self._samples)):
            values = plan.run(index)
            if index == 0:
                keeps = self._affordable(values, names, self._budget)
            for name in keeps:
                kept.setdefault(traced.histories[name], []).append(values[name])
            yield {name: values[name] for name in names}
        present = set(traced.histories.values())
        self._kept = {history: values for history, values in {**self._kept, **kept}.items() if history in present}
        self._last = traced

    def values(self, model: Model, names: Sequence[str]) -> list[Tensors]:
        """Return the values of any tensors of `model` on each sample, computed from what is known."""
        last = self._last
        traced = last if last is not None and last.proto is model.proto else Histories.of(model.proto)
        plan = self._plan(traced, names)
        found: list[Tensors] = [plan.run(index) for index in range(len(self._samples))]
        if traced is last and found:
            room = self._budget - sum(each.nbytes for values in self._kept.values() for each in values)
            for name in self._affordable(found[0], [], room):
                self._kept.setdefault(traced.histories[name], [values[name] for values in found])
        return found

    def forget(self) -> None:
        """Let go of all that is known, when the whole graph is done with."""
        self._kept.clear()
        self._last = None

    def _proven_same(self, traced: Histories, before: Mapping[str, str]) -> Histories:
        """Return the histories with those that tensors are found to share with tensors of the graph before.

        What lies near what is known is compared first: once that is the same, more is known, and more is near.
        """
        if self._last is not None:
            traced = traced.following(self._last)
        for _ in range(_ROUNDS):
            last = self._last
            edges = traced.edges(last, before) if last is not None and self._kept else None
            if last is None or not edges:
                return traced
            known = self._known(traced)
            there = self._known(last)
            near = [
                (one, other) for one, other in edges if not traced.is_far(one, known) and not last.is_far(other, there)
            ]
            if not near:  # to compare what is far would cost as much as to run it
                return traced
            try:
                # what changes the last bits does so from its first change on: that tells at little cost
                same = self._equal(traced, last, near[:1], 1) and self._equal(traced, last, near, len(self._samples))
            except InputError:  # a run of the whole will say what is wrong, if anything is
                return traced
            if not same:
                return traced
            traced = self._joined(traced, last, near)
        return traced

    def _joined(self, traced: Histories, last: Histories, pairs: Sequence[tuple[str, str]]) -> Histories:
        """Give the two of each pair, which are equal, one history in both graphs; return those of the new one."""
        mine: dict[str, bytes] = {}
        theirs: dict[str, bytes] = {}
        for one, other in pairs:
            mine.setdefault(one, theirs.get(other, last.histories[other]))
            theirs[other] = mine[one]  # which may equal several tensors of the graph before
        self._last = last.knowing(theirs)
        self._kept = {
            self._last.histories[name]: self._kept[history]
            for name, history in last.histories.items()
            if history in self._kept
        }
        return traced.knowing(mine)

    def _equal(self, traced: Histories, last: Histories, edges: Sequence[tuple[str, str]], samples: int) -> bool:
        """Whether the two of each pair are the same bits on the first samples."""
        if any(theirs not in last.histories for _, theirs in edges):
            return False
        mine = self._plan(traced, list(dict.fromkeys(name for name, _ in edges)))
        theirs = self._plan(last, list(dict.fromkeys(name for _, name in edges)))
        for index in range(samples):
            here, there = mine.run(index), theirs.run(index)
            for a, b in edges:
                # ONNX Runtime packs weights that it knows before, and may then add in another order
                whole_numbers = isinstance(here[a], np.ndarray) and here[a].dtype.kind in "biu"
                packed = traced.is_constant(a) != last.is_constant(b) and np.ndim(here[a]) > 1
                if (packed and not whole_numbers) or not _same_bits(here[a], there[b]):
                    return False
        return True

    def _known(self, traced: Histories) -> dict[str, Sequence[Array]]:
        """Return what is known of the tensors that nodes write, constants apart."""
        return {
            name: self._kept[traced.histories[name]]
            for name in traced.writers
            if traced.histories[name] in self._kept and not traced.is_constant(name)
        }

    def _plan(self, traced: Histories, names: Sequence[str]) -> _Plan:
        known = self._known(traced)
        values = {
            **{
                name: [value_of(traced.constants[name])] * len(self._samples)
                for name in names
                if name in traced.constants
            },
            **known,
        }
        given = [name for name in names if name not in values and name not in traced.writers]
        values |= {name: [sample.load(name) for sample in self._samples] for name in given}
        missing = [name for name in names if name not in values]
        session = None
        if missing:
            first = {name: each[0] for name, each in known.items()}
            part = traced.between(missing, traced.needed(missing, known), first)
            session = Session(part, name=_NAME)
        return _Plan(names, values, session, self._samples)

    def _affordable(self, values: Tensors, outputs: Sequence[str], room: int) -> list[str]:
        """Return which tensors are kept as far as there is room: the outputs, then the smallest of the others."""
        keeps = []
        arrays = [name for name, value in values.items() if isinstance(value, np.ndarray)]
        for name in sorted(arrays, key=lambda name: (name not in outputs, values[name].nbytes)):
            room -= values[name].nbytes * len(self._samples)
            if room < 0:
                break
            keeps.append(name)
        return keeps


def _same_bits(one: object, other: object) -> bool:
    """Whether two values are arrays of the same type, shape and bits; a zero has a sign."""
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return False
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.hasobject:  # text
        return bool(np.array_equal(one, other))
    bits, others = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (one, other))
    return bool(np.array_equal(bits, others))
