"""From columns and images to average precision: what is missing is detected, then each column is judged."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.errors import InputError
from graphsurgery.evaluation.coco import require_pycocotools
from graphsurgery.evaluation.columns import Column
from graphsurgery.evaluation.dataset import Dataset, Unreadable, category_of_label, require_categories
from graphsurgery.evaluation.judge import Judge, Judged, JudgeTask
from graphsurgery.evaluation.store import MemoryStore, Store
from graphsurgery.evaluation.tasks import Task
from graphsurgery.evaluation.workers import InProcess, Runner
from graphsurgery.files.commit import Draft, writing
from graphsurgery.parts.ap_protocol import ApProtocol
from graphsurgery.progress import Watcher


class BadImages(InputError):
    """Some images can't be read; the others were evaluated and their results kept."""

    def __init__(self, place: str, images: Sequence[Unreadable]) -> None:
        self.images = tuple(images)
        first = f"image {images[0].id}, {images[0].path.name}, " if len(images) > 1 else ""
        super().__init__(
            f"{place}: {len(images)} of its images can't be read ({first}{images[0].reason}); repair them and run "
            "again, which goes on from here, or leave them out with --skip-bad"
        )


@dataclass(frozen=True)
class Measured:
    """`evaluation` is what run.json has under that name; `computed` and `reused` count images, once per column."""

    evaluation: dict[str, Any]
    computed: int
    reused: int


def measure(
    columns: Sequence[Column],
    dataset: Dataset,
    watcher: Watcher,
    *,
    classes: Sequence[str] | None = None,
    detections: Postprocessing | None = None,
    labels: range | None = None,
    protocol: ApProtocol | None = None,
    threads: int = 1,
    store: Store | None = None,
    runner: Runner | None = None,
    results: Path | None = None,
    per_category: bool = False,
    skip_bad: bool = False,
) -> Measured:
    """Detect what `store` has no results of, and measure the AP of each column on the same images.

    `classes` are the names of the labels, `detections` what the recipe says of them, `labels` all that there are, each
    None where it isn't known. `protocol` is how AP is measured, COCO's way if None. `runner` does the work, in this
    process if None. With `results`, that folder gets a results_<column>.json in COCO's format for each column, and
    summary.json. Raises BadImages where there are some and `skip_bad` isn't set, InputError for annotations that don't
    fit the model, and what detecting raises.
    """
    require_pycocotools()
    categories = category_of_label(dataset.annotations, classes, dataset.place, detections)
    if categories is None and labels is not None:
        require_categories(dataset.annotations, labels, dataset.place, all_=True)
    store, runner = store or MemoryStore(), runner or InProcess()
    tasks = missing(columns, dataset, store, threads)
    total = len(columns) * len(dataset.pictures)
    bad = {each.id: each for each in dataset.unreadable}
    reused = total - len(tasks)
    watcher.begin("evaluate")
    watcher.advance(reused, total)
    for number, (task, found) in enumerate(runner.do(tasks), start=1):
        if found.unreadable is None:
            store.add(task, found)
        else:
            bad[task.picture.id] = Unreadable(task.picture.id, task.picture.path, found.unreadable)
        watcher.advance(reused + number, total)
    unreadable = [bad[identity] for identity in sorted(bad)]
    if unreadable and not skip_bad:
        raise BadImages(dataset.place, unreadable)
    pictures = [picture for picture in dataset.pictures if picture.id not in bad]
    if not pictures:
        raise InputError(f"{dataset.place}: none of its images can be read ({unreadable[0].reason}); give others")
    judge = Judge(dataset, pictures, categories, protocol or ApProtocol())
    with _results(results) as draft:
        watcher.begin("average precision")
        to_judge = [
            JudgeTask(
                judge, each, threads, store.only(each), draft.work / f"results_{each.name}.json" if draft else None
            )
            for each in columns
        ]
        found_of: dict[str, Judged] = {}
        watcher.advance(0, len(columns))
        for number, (each, result) in enumerate(runner.judge(to_judge), start=1):
            found_of[each.column.name] = result
            watcher.advance(number, len(columns))
        judged = {column.name: found_of[column.name] for column in columns}  # in the order of the columns
        evaluation = judge.summary(judged, per_category=per_category)
        evaluation |= {"skipped": [each.to_json() for each in unreadable]} if unreadable else {}
        if draft is not None:
            _write(draft.work / "summary.json", evaluation, indent=1)
            draft.publish([path.name for path in draft.work.iterdir()], "summary.json")
    return Measured(evaluation, len(tasks), reused)


def missing(columns: Sequence[Column], dataset: Dataset, store: Store, threads: int) -> list[Task]:
    """Return what is left to do, column by column, so that nobody has to keep two detectors open."""
    tasks = []
    for column in columns:
        done = store.done(column, threads, dataset.pictures)
        tasks += [Task(column, picture, threads) for picture in dataset.pictures if picture.id not in done]
    return tasks


@contextlib.contextmanager
def _results(folder: Path | None) -> Iterator[Draft | None]:
    """Yield a draft of what is to be written into `folder`. Raises InputError where that can't be."""
    if folder is None:
        yield None
        return
    try:
        with writing(folder, math.inf) as draft:
            yield draft
    except OSError as error:
        raise InputError(f"{folder}: can't be written ({error.strerror or error}); make room, or give --out") from error


def _write(path: Path, content: object, indent: int | None = None) -> None:
    path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")
