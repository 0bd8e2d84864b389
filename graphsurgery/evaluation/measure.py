"""From columns and images to average precision: what is missing is detected, then each column is judged."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.errors import InputError
from graphsurgery.evaluation.coco import AveragePrecision, evaluate, require_pycocotools
from graphsurgery.evaluation.columns import Column
from graphsurgery.evaluation.dataset import Dataset, Picture, Unreadable, category_of_label, require_categories
from graphsurgery.evaluation.store import MemoryStore, Store
from graphsurgery.evaluation.tasks import Found, Task
from graphsurgery.evaluation.workers import Runner, in_process
from graphsurgery.files.commit import Draft, writing
from graphsurgery.parts.ap_protocol import ApProtocol
from graphsurgery.progress import Watcher

# the field of an annotation without which there is nothing to measure a kind by
_NEEDS = {"segm": "segmentation", "keypoints": "keypoints"}


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
    run: Runner = in_process,
    results: Path | None = None,
    per_category: bool = False,
    skip_bad: bool = False,
) -> Measured:
    """Detect what `store` has no results of, by `run`, and measure the AP of each column on the same images.

    `classes` are the names of the labels, `detections` what the recipe says of them, `labels` all that there are, each
    None where it isn't known. `protocol` is how AP is measured, COCO's way if None. With `results`, that folder gets a
    results_<column>.json in COCO's format for each column, and summary.json. Raises BadImages where there are some and
    `skip_bad` isn't set, InputError for annotations that don't fit the model, and what detecting raises.
    """
    require_pycocotools()
    categories = category_of_label(dataset.annotations, classes, dataset.place, detections)
    if categories is None and labels is not None:
        require_categories(dataset.annotations, labels, dataset.place, all_=True)
    store = store or MemoryStore()
    tasks = missing(columns, dataset, store, threads)
    total = len(columns) * len(dataset.pictures)
    bad = {each.id: each for each in dataset.unreadable}
    reused = total - len(tasks)
    watcher.begin("evaluate")
    watcher.advance(reused, total)
    for number, (task, found) in enumerate(run(tasks), start=1):
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
    with _results(results) as draft:
        folder = None if draft is None else draft.work
        evaluation = _judge(
            columns,
            dataset,
            pictures,
            watcher,
            categories,
            store,
            threads,
            folder,
            per_category,
            protocol or ApProtocol(),
        )
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


def _judge(
    columns: Sequence[Column],
    dataset: Dataset,
    pictures: Sequence[Picture],
    watcher: Watcher,
    categories: Mapping[int, int] | None,
    store: Store,
    threads: int,
    folder: Path | None,
    per_category: bool,
    protocol: ApProtocol,
) -> dict[str, Any]:
    """Measure each column by all that was found of it; of one column at a time, as that may be a lot."""
    ids = [picture.id for picture in pictures]
    scores: dict[str, dict[str, AveragePrecision]] = {}
    seconds: dict[str, float] = {}
    watcher.begin("average precision")
    for number, column in enumerate(columns):
        watcher.advance(number, len(columns))
        found = store.read(column, threads, pictures)
        if categories is None:
            seen = {result["category_id"] for identity in ids for result in found[identity].results}
            require_categories(dataset.annotations, seen, dataset.place, all_=False)
        results = [result for identity in ids for result in _translated(found[identity].results, categories)]
        results = [result for result in results if result["score"] >= protocol.min_score]
        if folder is not None:
            _write(folder / f"results_{column.name}.json", results)
        compared = _kinds(found.values(), dataset, ids, protocol)
        scores[column.name] = evaluate(dataset.annotations, results, compared, ids, protocol.max_detections)
        seconds[column.name] = sum(each.seconds for each in found.values()) / len(found)
    kinds = [kind for kind in next(iter(scores.values())) if all(kind in score for score in scores.values())]
    table = {kind: {name: score[kind] for name, score in scores.items()} for kind in kinds}
    evaluation: dict[str, Any] = {
        "samples": len(ids),
        "ap": {kind: {name: score.ap for name, score in row.items()} for kind, row in table.items()},
        "lines": {kind: {name: dict(score.lines) for name, score in row.items()} for kind, row in table.items()},
        "seconds_per_image": seconds,
    }
    published = {kind: figures for kind in kinds if (figures := protocol.figures(kind))}
    evaluation |= {"published": published} if published else {}
    if per_category:
        names = {each["id"]: str(each.get("name", each["id"])) for each in dataset.annotations["categories"]}
        evaluation["per_category"] = {
            kind: {
                name: {names[category]: ap for category, ap in score.per_category.items()}
                for name, score in row.items()
            }
            for kind, row in table.items()
        }
    return evaluation


def _translated(results: Iterable[dict[str, Any]], categories: Mapping[int, int] | None) -> list[dict[str, Any]]:
    """Put category ids in the place of labels, and leave out what has none."""
    if categories is None:
        return list(results)
    return [
        {**result, "category_id": categories[result["category_id"]]}
        for result in results
        if result["category_id"] in categories
    ]


def _kinds(found: Iterable[Found], dataset: Dataset, ids: Sequence[int], protocol: ApProtocol) -> list[str]:
    """Return what both the detections and the annotations can be compared by: boxes, and masks or keypoints if any.

    Raises InputError where the protocol asks for something else alone.
    """
    given = next(iter(found)).kinds
    wanted = set(ids)
    entries = [entry for entry in dataset.annotations["annotations"] if entry["image_id"] in wanted]
    there = [kind for kind in given if kind == "bbox" or any(entry.get(_NEEDS[kind]) for entry in entries)]
    asked = [kind for kind in there if protocol.iou is None or kind in protocol.iou]
    if not asked:
        raise InputError(
            f"{dataset.place}: the recipe's evaluate.iou asks for {', '.join(protocol.iou or ())}, and the detections "
            f"and these annotations have {', '.join(there)}"
        )
    return asked


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
