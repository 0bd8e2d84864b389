"""The average precision of what was found on some images, column by column."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphsurgery.errors import InputError
from graphsurgery.evaluation.coco import AveragePrecision, evaluate
from graphsurgery.evaluation.columns import Column
from graphsurgery.evaluation.dataset import Dataset, Picture, require_categories
from graphsurgery.evaluation.store import Store
from graphsurgery.evaluation.tasks import Found
from graphsurgery.parts.ap_protocol import ApProtocol

# the field of an annotation without which there is nothing to measure a kind by
_NEEDS = {"segm": "segmentation", "keypoints": "keypoints"}


@dataclass(frozen=True)
class Judged:
    """The AP of one column, by kind (bbox, segm, keypoints), and how long an image took it, in seconds."""

    scores: Mapping[str, AveragePrecision]
    seconds: float


@dataclass(frozen=True)
class Judge:
    """Measures columns on the same `pictures` of a dataset, as `protocol` says.

    `categories` are the ids of categories by label, None where a label is one.
    """

    dataset: Dataset
    pictures: Sequence[Picture]
    categories: Mapping[int, int] | None
    protocol: ApProtocol

    def judge(self, found: Mapping[int, Found]) -> tuple[list[dict[str, Any]], Judged]:
        """Return what counts of the results of a column, in COCO's form, and its AP; `found` is by id of the image.

        Raises InputError for a category that the annotations don't have, and where nothing can be compared.
        """
        ids = [picture.id for picture in self.pictures]
        if self.categories is None:
            seen = {result["category_id"] for identity in ids for result in found[identity].results}
            require_categories(self.dataset.annotations, seen, self.dataset.place, all_=False)
        results = [result for identity in ids for result in self._translated(found[identity].results)]
        results = [result for result in results if result["score"] >= self.protocol.min_score]
        compared = self._kinds(found.values(), ids)
        scores = evaluate(self.dataset.annotations, results, compared, ids, self.protocol.max_detections)
        return results, Judged(scores, sum(each.seconds for each in found.values()) / len(found))

    def summary(self, judged: Mapping[str, Judged], *, per_category: bool) -> dict[str, Any]:
        """Return what run.json has under "evaluation": the kinds that all columns have, column by column."""
        scores = [each.scores for each in judged.values()]
        kinds = [kind for kind in scores[0] if all(kind in score for score in scores)]
        table = {kind: {name: each.scores[kind] for name, each in judged.items()} for kind in kinds}
        evaluation: dict[str, Any] = {
            "samples": len(self.pictures),
            "ap": {kind: {name: score.ap for name, score in row.items()} for kind, row in table.items()},
            "lines": {kind: {name: dict(score.lines) for name, score in row.items()} for kind, row in table.items()},
            "seconds_per_image": {name: each.seconds for name, each in judged.items()},
        }
        published = {kind: figures for kind in kinds if (figures := self.protocol.figures(kind))}
        evaluation |= {"published": published} if published else {}
        if per_category:
            entries = self.dataset.annotations["categories"]
            names = {each["id"]: str(each.get("name", each["id"])) for each in entries}
            evaluation["per_category"] = {
                kind: {
                    name: {names[category]: ap for category, ap in score.per_category.items()}
                    for name, score in row.items()
                }
                for kind, row in table.items()
            }
        return evaluation

    def _translated(self, results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Put category ids in the place of labels, and leave out what has none."""
        if self.categories is None:
            return list(results)
        return [
            {**result, "category_id": self.categories[result["category_id"]]}
            for result in results
            if result["category_id"] in self.categories
        ]

    def _kinds(self, found: Iterable[Found], ids: Sequence[int]) -> list[str]:
        """Return what both the detections and the annotations can be compared by: boxes, and masks or keypoints if any.

        Raises InputError where the protocol asks for something else alone.
        """
        given = next(iter(found)).kinds
        wanted = set(ids)
        entries = [entry for entry in self.dataset.annotations["annotations"] if entry["image_id"] in wanted]
        there = [kind for kind in given if kind == "bbox" or any(entry.get(_NEEDS[kind]) for entry in entries)]
        asked = [kind for kind in there if self.protocol.iou is None or kind in self.protocol.iou]
        if not asked:
            raise InputError(
                f"{self.dataset.place}: the recipe's evaluate.iou asks for {', '.join(self.protocol.iou or ())}, and "
                f"the detections and these annotations have {', '.join(there)}"
            )
        return asked


@dataclass(frozen=True)
class JudgeTask:
    """Measure a column by what `store` has of it, and write what counts into `out`, a COCO result file, if not None.

    Any process can do it, as the store is one of Store.only.
    """

    judge: Judge
    column: Column
    threads: int
    store: Store
    out: Path | None

    @property
    def called(self) -> str:
        """What messages call it."""
        return f"the AP of column {self.column.name}"

    def do(self) -> Judged:
        """Return the AP. Raises as Judge.judge, and OSError where `out` can't be written."""
        kept, judged = self.judge.judge(self.store.read(self.column, self.threads, self.judge.pictures))
        if self.out is not None:
            self.out.write_text(json.dumps(kept) + "\n", encoding="utf-8")
        return judged
