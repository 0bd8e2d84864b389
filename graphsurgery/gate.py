"""The numeric gate: after every pass, the graph against the tensors captured from the original model.

An exact pass gets the recipe's tolerances; an approximate one what the recipe grants it by name, and that grant
stays in force for everything behind it, since the tensors stay as far off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphsurgery.capture import Sample
from graphsurgery.equivalence import Comparison, Tolerances, Verdict, compare, merge
from graphsurgery.manifest import describe_part
from graphsurgery.model import Model
from graphsurgery.partition import Part
from graphsurgery.runtime import Chain, PartPlayer
from graphsurgery.session import Session

Reference = Mapping[str, np.ndarray]


@dataclass
class Gate:
    """Compares graphs, parts and chains with the captured samples.

    `tolerances` grow when `grant` is called. `boundary[i]` holds, for sample i, tensors between parts that the
    original model has no name for; they come from the whole graph after it has passed.
    """

    samples: Sequence[Sample]
    tolerances: Tolerances
    grants: Mapping[str, Tolerances]
    boundary: list[dict[str, np.ndarray]] = field(default_factory=list)

    def grant(self, pass_name: str) -> None:
        """Let what the recipe grants to an approximate pass be allowed from now on."""
        if pass_name in self.grants:
            self.tolerances = self.tolerances.widened(self.grants[pass_name])

    def fork(self) -> Gate:
        """Return a gate of its own for one part: a grant to its passes does not loosen the other parts' checks."""
        return Gate(self.samples, self.tolerances, self.grants, self.boundary)

    def check_graph(self, model: Model) -> Verdict:
        """Feed the captured inputs to the whole graph and compare its outputs with the captured ones."""
        session = Session(model.proto, name="the whole graph")
        return merge((sample.id, self._compare(index, session)) for index, sample in enumerate(self.samples))

    def check_part(self, part: Part) -> Verdict:
        """Feed the captured boundary tensors to one part and compare what it writes."""
        player = PartPlayer.open(part.model.proto, describe_part(part), ["CPUExecutionProvider"], optimise=False)
        comparisons = []
        for index, sample in enumerate(self.samples):
            given = {name: self._tensor(index, name) for name in player.entry.inputs}
            expected = {name: self._tensor(index, name) for name in player.entry.outputs}
            comparisons.append((sample.id, compare(expected, player.play(given), self.tolerances)))
        return merge(comparisons)

    def check_chain(self, parts: Sequence[Part], inputs: Sequence[str], outputs: Sequence[str]) -> Verdict:
        """Play all parts from the captured input to the end and compare the detector's outputs."""
        providers = ["CPUExecutionProvider"]
        players = [PartPlayer.open(p.model.proto, describe_part(p), providers, optimise=False) for p in parts]
        chain = Chain(tuple(players), tuple(outputs))
        comparisons = []
        for index, sample in enumerate(self.samples):
            got = chain.play({name: self._tensor(index, name) for name in inputs})
            expected = {name: self._tensor(index, name) for name in outputs}
            comparisons.append((sample.id, compare(expected, got, self.tolerances)))
        return merge(comparisons)

    def _compare(self, index: int, session: Session) -> Comparison:
        got = session.run({name: self._tensor(index, name) for name in session.inputs})
        expected = {name: self._tensor(index, name) for name in session.outputs}
        return compare(expected, got, self.tolerances)

    def _tensor(self, index: int, name: str) -> np.ndarray:
        """The captured tensor; else what the graph that passed computed for it."""
        if name not in self.samples[index] and index < len(self.boundary) and name in self.boundary[index]:
            return self.boundary[index][name]
        return self.samples[index].load(name)
