"""What a run works on, and who is told of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from graphsurgery.capture.samples import Sample
from graphsurgery.gate.gate import Gate
from graphsurgery.progress import Silent, Watcher
from graphsurgery.recipe.load import Recipe
from graphsurgery.report.run_record import Record, Step
from graphsurgery.sources import Source


class RunWatcher(Watcher, Protocol):
    """A watcher that is also told what became of each step."""

    def finished(self, step: Step) -> None:
        """A pass or a check is through."""


@dataclass
class Run:
    """What `apply` works on: the recipe, the captured samples, the record of what was done.

    `samples` are those that are compared, `calibration` those that passes may read, more of them as a rule. `gate` is
    None when nothing is to be checked. `failed` is the folder for the graphs around a pass that breaks
    something; None: they are not kept.
    """

    recipe: Recipe
    source: Source
    samples: Sequence[Sample]
    gate: Gate | None
    record: Record
    watcher: RunWatcher = field(default_factory=Silent)
    failed: Path | None = None
    calibration: Sequence[Sample] = ()


@contextmanager
def timed(record: Record, what: str) -> Iterator[None]:
    """Note in the record how long the body took, failed or not."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        record.spent(what, time.perf_counter() - begin)
