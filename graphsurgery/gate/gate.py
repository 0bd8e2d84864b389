"""The numeric gate: after every pass, the graph against the tensors captured from the original model.

An exact pass gets the recipe's tolerances; an approximate one what the recipe grants it by name, and that grant
stays in force for everything behind it, since the tensors stay as far off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphsurgery.capture.samples import Sample
from graphsurgery.devices.session import Session
from graphsurgery.gate.equivalence import Comparison, Tolerances, Verdict, compare, merge
from graphsurgery.graph.model import Model
from graphsurgery.parts.manifest import describe_part
from graphsurgery.parts.part import Part
from graphsurgery.runtime.player import Chain, PartPlayer


@dataclass
class Gate:
    """Compares graphs, parts and chains with the captured samples.

    `tolerances` grow when `grant` is called.
    """

    samples: Sequence[Sample]
    tolerances: Tolerances
    grants: Mapping[str, Tolerances]

    def grant(self, pass_name: str) -> None:
        """Let what the recipe grants to an approximate pass be allowed from now on."""
        if pass_name in self.grants:
            self.tolerances = self.tolerances.widened(self.grants[pass_name])

    def fork(self) -> Gate:
        """Return a gate of its own for one part: a grant to its passes does not loosen the other parts' checks."""
        return Gate(self.samples, self.tolerances, self.grants)

    def check_graph(self, model: Model, outputs: Sequence[str] | None = None) -> Verdict:
        """Feed the captured inputs to the whole graph and compare its outputs with the captured ones.

        `outputs` are those that it must have, no more and no fewer; None for whichever it has.
        """
        session = Session(model.proto, name="the whole graph")
        comparisons = []
        for sample in self.samples:
            got = session.run({name: sample.load(name) for name in session.inputs})
            comparisons.append((sample.id, self._compare(sample, got, outputs)))
        return merge(comparisons)

    def check_part(self, part: Part, outputs: Sequence[str] | None = None) -> Verdict:
        """Feed the captured boundary tensors to one part and compare what it writes; `outputs` as above."""
        player = PartPlayer.open(part.model.proto, describe_part(part), optimise=False)
        comparisons = []
        for sample in self.samples:
            got = player.play({name: sample.load(name) for name in player.entry.inputs})
            comparisons.append((sample.id, self._compare(sample, got, outputs)))
        return merge(comparisons)

    def check_chain(self, parts: Sequence[Part], inputs: Sequence[str], outputs: Sequence[str]) -> Verdict:
        """Play all parts from the captured input to the end and compare the detector's outputs."""
        players = [PartPlayer.open(part.model.proto, describe_part(part), optimise=False) for part in parts]
        chain = Chain(tuple(players), tuple(outputs))
        comparisons = []
        for sample in self.samples:
            got = chain.play({name: sample.load(name) for name in inputs})
            comparisons.append((sample.id, self._compare(sample, got, outputs)))
        return merge(comparisons)

    def _compare(self, sample: Sample, got: Mapping[str, np.ndarray], outputs: Sequence[str] | None) -> Comparison:
        expected = {name: sample.load(name) for name in (got if outputs is None else outputs)}
        return compare(expected, got, self.tolerances)
