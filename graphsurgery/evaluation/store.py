"""What was found so far: one line of JSON per image and column, so that an interrupted run loses what is in flight.

    <folder>/progress_<column>.jsonl    {"key": ..., "image": 7, "sha256": ..., "results": [...], ...}

A line counts only for the very same column, number of threads and image file; others stay for when these come back.
A line that is torn, because the power went or two runs wrote at once, or isn't of this form, counts as not written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Protocol

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # as in images.annotations

from graphsurgery import files
from graphsurgery.errors import InputError
from graphsurgery.evaluation.columns import Column
from graphsurgery.evaluation.dataset import Picture
from graphsurgery.evaluation.tasks import Found, Task
from graphsurgery.files.lines import append_line, read_lines
from graphsurgery.images.annotations import Id, RunLengths, refuse_mask

_MOST_BYTES, _LONGEST_LINE = 16 * 1024 * files.MB, 256 * files.MB


class _Result(TypedDict):
    image_id: Id
    category_id: Id
    bbox: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)]
    score: FiniteFloat
    segmentation: NotRequired[RunLengths]
    keypoints: NotRequired[list[FiniteFloat]]


class _Line(TypedDict):
    image: Id
    sha256: str
    seconds: FiniteFloat
    kinds: list[Literal["bbox", "segm", "keypoints"]]
    results: list[_Result]


_LINE = TypeAdapter(_Line)


class Store(Protocol):
    """Where results are kept until all are there."""

    def done(self, column: Column, threads: int, pictures: Iterable[Picture]) -> set[int]:
        """Return the ids of those pictures that a column has results of."""

    def add(self, task: Task, found: Found) -> None:
        """Keep the results of a task."""

    def read(self, column: Column, threads: int, pictures: Iterable[Picture]) -> dict[int, Found]:
        """Return the results of a column for those pictures that have some, by id."""

    def only(self, column: Column) -> Store:
        """Return a store to read one column from, in another process too: no more is sent there than that needs."""


class MemoryStore:
    """Keeps results as long as the process lives."""

    def __init__(self) -> None:
        self._found: dict[str, dict[int, Found]] = {}

    def forget(self, column: Column) -> None:
        """Throw the results of a column away."""
        self._found.pop(column.name, None)

    def done(self, column: Column, threads: int, pictures: Iterable[Picture]) -> set[int]:
        """As Store."""
        return set(self.read(column, threads, pictures))

    def add(self, task: Task, found: Found) -> None:
        """As Store."""
        self._found.setdefault(task.column.name, {})[task.picture.id] = found

    def read(self, column: Column, threads: int, pictures: Iterable[Picture]) -> dict[int, Found]:
        """As Store."""
        there = self._found.get(column.name, {})
        return {picture.id: there[picture.id] for picture in pictures if picture.id in there}

    def only(self, column: Column) -> Store:
        """As Store."""
        one = MemoryStore()
        one._found[column.name] = self._found.get(column.name, {})
        return one


class FileStore:
    """Keeps results in a folder. Raises InputError when it can't be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: no folder can be made there ({error.strerror}); give another --out") from error

    def forget(self, column: Column) -> None:
        """Throw the results of a column away."""
        with contextlib.suppress(FileNotFoundError):
            self._path(column).unlink()

    def done(self, column: Column, threads: int, pictures: Iterable[Picture]) -> set[int]:
        """As Store."""
        wanted = {picture.id: picture.sha256 for picture in pictures}
        return {line["image"] for line in self._lines(column, threads) if wanted.get(line["image"]) == line["sha256"]}

    def add(self, task: Task, found: Found) -> None:
        """As Store; it is in the file when this returns."""
        line = {
            "key": _key(task.column, task.threads),
            "image": task.picture.id,
            "sha256": task.picture.sha256,
            "seconds": found.seconds,
            "kinds": found.kinds,
            "results": found.results,
        }
        path = self._path(task.column)
        try:
            append_line(path, json.dumps(line).encode("ascii"))
        except OSError as error:
            raise InputError(
                f"{path}: can't be written ({error.strerror}); make room and run again, which goes on from here"
            ) from error

    def read(self, column: Column, threads: int, pictures: Iterable[Picture]) -> dict[int, Found]:
        """As Store."""
        wanted = {picture.id: picture.sha256 for picture in pictures}
        found = {}
        for line in self._lines(column, threads):
            if wanted.get(line["image"]) == line["sha256"]:
                self._check_masks(line, column)
                results: list[Any] = line["results"]
                found[line["image"]] = Found(line["seconds"], tuple(line["kinds"]), results)
        return found

    def only(self, column: Column) -> Store:
        """As Store: all is in the folder."""
        return self

    def _check_masks(self, line: _Line, column: Column) -> None:
        try:
            for result in line["results"]:
                if "segmentation" in result:
                    height, width = result["segmentation"]["size"]
                    refuse_mask(result["segmentation"], (height, width))
        except ValueError as error:
            raise InputError(
                f"{self._path(column)}: a mask in image {line['image']}: {error}; begin anew: --restart"
            ) from error

    def _lines(self, column: Column, threads: int) -> Iterator[_Line]:
        start = f'{{"key": "{_key(column, threads)}", '.encode("ascii")
        path = self._path(column)
        try:
            for line in read_lines(path, _MOST_BYTES, _LONGEST_LINE):
                if line.startswith(start):
                    with contextlib.suppress(ValidationError):
                        yield _LINE.validate_json(line, strict=True)
        except OSError as error:
            raise InputError(f"{path}: can't be read ({files.reason(error)}); begin anew: --restart") from error

    def _path(self, column: Column) -> Path:
        return self.folder / f"progress_{column.name}.jsonl"


def _key(column: Column, threads: int) -> str:
    return hashlib.sha256(f"{column.fingerprint} {threads}".encode()).hexdigest()
