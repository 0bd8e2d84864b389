"""What a run works on, and who is told of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from graphsurgery.capture.samples import Request, Sample
from graphsurgery.gate.gate import Gate, Grant, Tensors
from graphsurgery.graph.model import EXTERNAL_FROM, Model
from graphsurgery.pipeline.certify import Certifier
from graphsurgery.progress import Silent, Watcher
from graphsurgery.recipe.load import Recipe
from graphsurgery.report.run_record import Record, Step
from graphsurgery.sources import Source

# Bytes of weights from which on files hold them between passes. Mask R-CNN's 170 MB: a twelfth less time, 600 MB less
# memory; below, to write them costs what it saves.
_MOST_IN_MEMORY = 16 * 10**6


class RunWatcher(Watcher, Protocol):
    """A watcher that is also told what became of each step."""

    def finished(self, step: Step) -> None:
        """A pass or a check is through."""


@dataclass
class Unjudged:
    """The whole graph behind a step, before the gate has judged it.

    It is run only when the next step is known: `judge_whole` can then ask in the same runs for the verdict and for the
    inner tensors which that step makes ends of a graph. `before` is what the graph before it computed, where a grant
    asks for that, `unchanged` are the steps behind it that left it alone and share its verdict.
    """

    subject: Model
    step: Step
    place: str
    outputs: Sequence[str] | None = None
    earlier: tuple[Grant, ...] = ()
    own: tuple[Grant, ...] = ()
    before: Sequence[Tensors] | None = None
    graph_before: Model | None = None
    unchanged: list[Step] = field(default_factory=list)

    @property
    def granted(self) -> tuple[Grant, ...]:
        """What the passes up to this graph were granted."""
        return (*self.earlier, *self.own)


@dataclass
class Run:
    """What `apply` works on: the recipe, the captured samples, the record of what was done.

    `samples` are those that are compared, `calibration` those that passes may read, more of them as a rule. `gate` is
    None when nothing is to be checked. `failed` is the folder for the graphs around a pass that breaks
    something; None: they are not kept. `put_off` are the whole graphs to be judged on one sample when a later one is
    run, `half_judged` those that passed on it, `certifier` holds parts against the recipe's target, `request` says
    which images were captured, `external_from` from how many bytes on, parts together, weights are written into files
    of their own. Large weights on the way are held by files in `scratch`, where they aren't copied, hashed and parsed
    again for each graph; without it, memory holds them.
    """

    recipe: Recipe
    source: Source
    samples: Sequence[Sample]
    gate: Gate | None
    record: Record
    watcher: RunWatcher = field(default_factory=Silent)
    failed: Path | None = None
    calibration: Sequence[Sample] = ()
    put_off: list[Unjudged] = field(default_factory=list)
    half_judged: list[Unjudged] = field(default_factory=list)
    certifier: Certifier = field(default_factory=lambda: Certifier(None))
    request: Request | None = None
    external_from: float = EXTERNAL_FROM
    scratch: Path | None = None

    def kept(self, model: Model) -> Model:
        """Return a model whose large weights lie where sessions map them, those of a pass too."""
        return model if self.scratch is None else model.spilled(self.scratch, min(self.external_from, _MOST_IN_MEMORY))


@contextmanager
def timed(record: Record, what: str) -> Iterator[None]:
    """Note in the record how long the body took, failed or not."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        record.spent(what, time.perf_counter() - begin)
