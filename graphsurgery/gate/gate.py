"""The numeric gate: after every pass, the graph against the tensors captured from the original model.

The rule. A grant is what the recipe lets an approximate pass cost. It belongs to that pass, and travels with the graph
that the pass changed (`Judged.granted`); a pass that changes nothing is granted nothing. A pass that changed something
is judged

    against the captured tensors    by its own limit, with what was granted to the passes before it on top
    against the graph before it     by its own limit alone, on the same inputs, if anything was granted before it

Its own limit is the recipe's tolerance; that of an approximate pass is widened by its grant. Where nothing was granted
before, the graph before equals the captured tensors as far as the gate can tell, and the first judgement is enough. The
same goes for the cut, which is exact. A part's grants loosen neither the other parts nor their variants, which go on
from the finished parts with what those carry; only the chain, at the end, may cost what all of its parts were granted.

Where nothing is granted, a graph that another pass follows is judged on one sample, the one with most in it, and the
last graph on all. A part as it was cut is judged on one too where passes on it follow, each of which is judged on all.
If that fails, those before it are judged on all too, so that the one at fault is named. A grant could hide what such a
graph gets wrong on the other samples, so the graph that a granted pass is given is judged on all (`pipeline.judging`).
A graph that is judged on one sample waits until a later one is run: that tells what the nodes compute which both have,
and the others alone are run. Where a tensor between them isn't the same bit for bit, the whole graph is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import numpy as np

from graphsurgery.capture.samples import Sample
from graphsurgery.detections.row_groups import Group
from graphsurgery.gate import row_members
from graphsurgery.gate.described_outputs import NOT_DESCRIBED, DescribedOutputs
from graphsurgery.gate.equivalence import compare
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.gate.verdicts import Comparison, Outcome, Verdict, merge
from graphsurgery.graph.joined_outputs import JoinedOutput
from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import as_captured, choosing
from graphsurgery.parts.describe import describe_part
from graphsurgery.parts.part import Part
from graphsurgery.runtime.player import Chain, PartPlayer

Judgement = Literal["passed", "failed", "inconclusive", "unchecked"]
Tensors = Mapping[str, np.ndarray]
Subject = TypeVar("Subject", Model, Part)


@dataclass(frozen=True)
class Grant:
    """What an approximate pass, which changed the graph, may have cost it."""

    pass_name: str
    tolerances: Tolerances


@dataclass(frozen=True)
class Judged(Generic[Subject]):
    """A graph or a part with what the gate knows of it.

    `granted` is what passes on the way to it were granted, in their order. `outputs` is what it computes on each
    sample, kept only where the next pass has to be compared with it, or the chain of parts `begins` with it. `on_all`
    judges it on all samples, where it was judged on one alone; else None.
    """

    subject: Subject
    verdict: Judgement = "unchecked"
    granted: tuple[Grant, ...] = ()
    outputs: tuple[Tensors, ...] | None = None
    begins: bool = False
    on_all: Callable[[], Judged[Subject]] | None = field(default=None, compare=False)

    def complete(self) -> Judged[Subject]:
        """Return it judged on all samples. Raises what that does."""
        return self if self.on_all is None else self.on_all()


@dataclass(frozen=True)
class Ruling:
    """How a graph compares with the captured tensors and, behind a grant, with the graph before it (else None).

    `outputs` is what it computed on each sample, where that was to be kept.
    """

    captured: Verdict
    before: Verdict | None = None
    outputs: tuple[Tensors, ...] | None = None

    @property
    def verdict(self) -> Outcome:
        """Failed if either comparison failed, else what the captured tensors say."""
        failed = self.before is not None and self.before.verdict == "failed"
        return "failed" if failed else self.captured.verdict


@dataclass(frozen=True)
class Gate:
    """Compares graphs, parts and chains with the captured samples.

    `tolerances` are the recipe's, `grants` what it grants to approximate passes by name. `groups` are the rows that are
    compared as sets; which further tensors belong to them the samples tell (`row_members`). `described` says what the
    columns of the original's outputs are, and which of their rows are sets.
    """

    samples: Sequence[Sample]
    tolerances: Tolerances
    grants: Mapping[str, Tolerances]
    groups: Sequence[Group] = ()
    described: DescribedOutputs = NOT_DESCRIBED

    def grant(self, pass_name: str) -> tuple[Grant, ...]:
        """Return what the recipe grants to an approximate pass, nothing where it grants none."""
        return (Grant(pass_name, self.grants[pass_name]),) if pass_name in self.grants else ()

    def play_part(self, part: Part, samples: Sequence[Sample] | None = None) -> Iterator[Tensors]:
        """Yield what one part computes on each sample's boundary tensors; on all samples if None are given."""
        player = PartPlayer.open(part.model.proto, describe_part(part), optimise=False)
        for sample in self.samples if samples is None else samples:
            played = player.play({name: sample.load(name) for name in player.entry.inputs})
            beside = {
                name: sample.load(name) for name in choosing(part.model.proto) if name not in played and name in sample
            }
            yield as_captured(part.model.proto, played, beside)

    def play_chain(
        self,
        parts: Sequence[Part],
        inputs: Sequence[str],
        outputs: Sequence[str],
        begun: Sequence[Tensors] | None = None,
    ) -> Iterator[Tensors]:
        """Yield what all parts, played one after another, make of each sample's image.

        `begun` is what the first of them makes of each, where that is known.
        """
        left = parts if begun is None else parts[1:]
        players = [PartPlayer.open(part.model.proto, describe_part(part), optimise=False) for part in left]
        chain = Chain(tuple(players), tuple(outputs))
        for number, sample in enumerate(self.samples):
            known = {} if begun is None else begun[number]
            played = chain.play({**{name: sample.load(name) for name in inputs}, **known})
            for part in parts:
                played = as_captured(part.model.proto, played)
            yield played

    def judge(
        self,
        played: Iterable[Tensors],
        outputs: Sequence[str] | None = None,
        *,
        own: Sequence[Grant] = (),
        earlier: Sequence[Grant] = (),
        before: Iterable[Tensors] | None = None,
        joins: Sequence[JoinedOutput] = (),
        keep: bool = False,
        samples: Sequence[Sample] | None = None,
    ) -> Ruling:
        """Judge what was computed on each of `samples`, all if None, by the rule above.

        `outputs` are the tensors that there must be, no more and no fewer; None for whichever there are. `own` is what
        the pass was granted that made the graph, `earlier` what those before it were, `before` what the graph before it
        computes. Outputs that a pass took apart are also compared as `joins` joins them, by the roles of their columns.
        `keep` says whether the tensors are kept for the next pass.
        """
        limit = self.tolerances
        for grant in own:
            limit = limit.widened(grant.tolerances)
        whole_limit = limit.behind([grant.tolerances for grant in earlier])
        captured: list[tuple[str, Comparison]] = []
        behind: list[tuple[str, Comparison]] = []
        kept: list[Tensors] = []
        earlier_outputs = iter(before) if before is not None else None
        for sample, got in zip(self.samples if samples is None else samples, played, strict=True):
            expected = {name: sample.load(name) for name in (got if outputs is None else outputs)}
            groups = row_members.found_in(self.samples, list(expected), self.groups)
            aside = row_members.aside(sample, list(expected), groups)
            every, roles = (*groups, *self.described.groups(sample)), self.described.roles(sample)
            pair = _with_joined(expected, got, joins, sample)
            captured.append((sample.id, compare(*pair, whole_limit, every, aside, roles)))
            if earlier_outputs is not None:
                pair = _with_joined(next(earlier_outputs), got, joins)
                behind.append((sample.id, compare(*pair, limit, every, roles=roles)))
            if keep:
                kept.append(got)
        return Ruling(merge(captured), merge(behind) if behind else None, tuple(kept) if keep else None)

    def check_part(self, part: Part, outputs: Sequence[str] | None = None) -> Verdict:
        """Compare a part, with nothing granted, with the captured tensors; `outputs` as above."""
        return self.judge(self.play_part(part), outputs).captured


def _with_joined(
    reference: Tensors, candidate: Tensors, joins: Sequence[JoinedOutput], sample: Sample | None = None
) -> tuple[Tensors, Tensors]:
    """Return both sides with what `joins` makes of their tensors beside these; of the reference what `sample` holds.

    Left out is what one side lacks a piece of, or has it in another shape: that fails by itself.
    """
    one, other = dict(reference), dict(candidate)
    for join in joins:
        known = sample is None or join.name in sample
        if known and all(n in one and n in other and one[n].shape == other[n].shape for n in join.tensors):
            one[join.name] = join.of(one) if sample is None else sample.load(join.name)
            other[join.name] = join.of(other)
    return one, other
