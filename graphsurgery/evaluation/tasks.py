"""One image of one column: the unit of work, which any process can do and do again."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphsurgery import files
from graphsurgery.errors import InputError
from graphsurgery.evaluation.coco import coco_results
from graphsurgery.evaluation.columns import Column, Opened
from graphsurgery.evaluation.dataset import Picture
from graphsurgery.images.files import MOST_BYTES, load_image


@dataclass(frozen=True)
class Task:
    """Detect what is in `picture` with `column`, computing with `threads` threads."""

    column: Column
    picture: Picture
    threads: int

    @property
    def called(self) -> str:
        """What messages call it."""
        return f"image {self.picture.id} of column {self.column.name}"


@dataclass(frozen=True)
class Found:
    """What a task gave: COCO results whose categories are still the model's labels, and how long detecting took.

    `kinds` are the kinds of AP that they can be measured by. `unreadable` says why the image has no results.
    """

    seconds: float = 0.0
    kinds: tuple[str, ...] = ()
    results: list[dict[str, Any]] = field(default_factory=list)
    unreadable: str | None = None


class TaskRunner:
    """Does tasks one after another and keeps the detector of the last one open, as tasks come column by column."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()  # dask runs tasks in threads, and torch's number of threads is global
        self._open: tuple[Column, int, Opened] | None = None

    def prepare(self, column: Column, threads: int) -> Opened:
        """Open a column, unless it is. Raises what Column.open does."""
        if self._open is None or self._open[:2] != (column, threads):
            self._open = None  # let go of one detector before the next takes its memory
            self._open = (column, threads, column.open(threads))
        return self._open[2]

    def do(self, task: Task) -> Found:
        """Detect. Raises what Column.open and its detector do, and InputError for an image that changed."""
        with self._one_at_a_time:
            return _detect(self.prepare(task.column, task.threads), task.picture)

    def close(self) -> None:
        """Let go of the detector that is open."""
        self._open = None


def _detect(opened: Opened, picture: Picture) -> Found:
    try:
        content = files.read_bytes(picture.path, MOST_BYTES)
    except OSError as error:
        seen = files.reason(error)
        raise InputError(f"{picture.path}: can't be read any more, or not from here ({seen})") from error
    if hashlib.sha256(content).hexdigest() != picture.sha256:
        raise InputError(f"{picture.path}: is another file than when this began; run it again")
    try:
        image = load_image(picture.path)
    except InputError as error:
        return Found(unreadable=str(error))
    placed = opened.canvas.fit(image)
    begin = time.perf_counter()
    found = opened.detect(placed, picture.path)
    seconds = time.perf_counter() - begin
    restored = placed.restore(found, paste=False)
    return Found(seconds, _kinds(found), coco_results(picture.id, restored, size=placed.original))


def _kinds(detections: Mapping[str, Any]) -> tuple[str, ...]:
    named = (("masks", "segm"), ("masks_pasted", "segm"), ("keypoints", "keypoints"))
    extra = dict.fromkeys(kind for name, kind in named if name in detections)
    return ("bbox", *extra)
