"""Average precision of a run: begun in a process of its own while the run goes on, judged at its end.

Whoever detects computes with one thread, as `evaluate` does, so that the figures are the same however many processes
there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphsurgery.evaluation.beside import Beside
from graphsurgery.evaluation.columns import ORIGINAL, PARTS, Column, Loaded, OriginalColumn, PartsColumn, opened
from graphsurgery.evaluation.dataset import Dataset, category_of_label, drawn_or_given, open_dataset
from graphsurgery.evaluation.measure import measure, missing
from graphsurgery.evaluation.store import MemoryStore
from graphsurgery.evaluation.workers import InProcess, WorkerPool, sensible_workers
from graphsurgery.parts.manifest import Manifest
from graphsurgery.pipeline.run import RunWatcher
from graphsurgery.recipe.load import EvaluationPlan
from graphsurgery.sources import HasNamedOutputs, Source, SourceSpec

_THREADS = 1


@dataclass(frozen=True)
class Precision:
    """What of the AP of a run has been begun; `beside` is None where all of it is done in this process, at the end."""

    dataset: Dataset
    store: MemoryStore
    original: Column
    workers: int
    beside: Beside | None

    def begin_parts(self, folder: Path) -> None:
        """Have the parts in `folder`, which are finished, evaluated beside what comes now."""
        self._begin(PartsColumn.of(PARTS, folder))

    def _begin(self, column: Column) -> None:
        if self.beside is not None and (not isinstance(column, PartsColumn) or column.on_cpu):
            self.beside.add(missing([column], self.dataset, self.store, _THREADS))

    def drop(self, name: str, folder: Path, watcher: RunWatcher) -> float:
        """Return how much AP the parts in `folder` lose against the original, of the kinds the most.

        `name` is what the column is called, of whose results none is kept.
        """
        if self.beside is not None:
            self.beside.stop()
        column = PartsColumn.of(name, folder)
        table = self._measure([self.original, column], Manifest.read(folder), watcher)["ap"]
        self.store.forget(column)
        return float(max(row[ORIGINAL] - row[name] for row in table.values()))

    def finish(
        self,
        folder: Path,
        watcher: RunWatcher,
        placed: Mapping[str, Mapping[str, str]],
        *,
        allow_fallback: bool = False,
    ) -> dict[str, Any]:
        """Measure AP of the original model on the canvas, of the parts in `folder`, and of each of their variants.

        `placed` are the devices that the recipe has for a variant, which may leave nodes to the CPU with
        `allow_fallback`. Returns run.json's `evaluation`. Raises InputError
        for images that can't be used.
        """
        if self.beside is not None:
            watcher.begin("evaluate")
            self.beside.stop()
        manifest = Manifest.read(folder)
        parts = [PartsColumn.of(PARTS, folder)]
        parts += [
            PartsColumn.of(name, folder / name, placed.get(name), allow_fallback=allow_fallback)
            for name in manifest.variants
        ]
        return self._measure([self.original, *parts], manifest, watcher)

    def _measure(self, columns: Sequence[Column], manifest: Manifest, watcher: RunWatcher) -> dict[str, Any]:
        # an accelerator is there once: several processes would have to share it
        on_cpu = all(column.on_cpu for column in columns if isinstance(column, PartsColumn))
        alone = self.workers == 1 or not on_cpu
        with nullcontext(InProcess()) if alone else WorkerPool(self.workers) as runner:
            return measure(
                columns,
                self.dataset,
                watcher,
                classes=manifest.classes,
                detections=manifest.postprocessing,
                labels=manifest.labels,
                protocol=manifest.evaluation,
                threads=_THREADS,
                store=self.store,
                runner=runner,
            ).evaluation


@contextmanager
def begun(
    plan: EvaluationPlan, source: Source, spec: SourceSpec, variants: int, workers: int | None, watcher: RunWatcher
) -> Iterator[Precision]:
    """Begin to evaluate the original, `source`, which `spec` opens, unless `workers` is 1; end it with the context.

    `workers` is None for as many processes as pay for the original, the parts and that many `variants`. Raises
    InputError for images or annotations that can't be used, and for a source that gives no detections.
    """
    if isinstance(source, HasNamedOutputs):
        source.require_detections()
    with ExitStack() as stack:
        watcher.begin("images to evaluate on")
        images, annotations = stack.enter_context(drawn_or_given(plan.images, plan.annotations, plan.samples))
        dataset = open_dataset(images, annotations, plan.samples)
        category_of_label(dataset.annotations, source.classes, dataset.place, spec.detections)
        workers = workers or sensible_workers((2 + variants) * len(dataset.pictures))
        store = MemoryStore()
        if workers == 1:
            here = Loaded(ORIGINAL, *opened(source, spec.kind, _THREADS))
            yield Precision(dataset, store, here, workers, None)
            return
        beside = stack.enter_context(Beside(store))
        precision = Precision(dataset, store, OriginalColumn.of_source(spec, source.describe()), workers, beside)
        precision._begin(precision.original)
        yield precision
