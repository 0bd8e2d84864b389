"""What was found so far: one line of JSON per image and column, so that an interrupted run loses what is in flight.

    <folder>/progress_<column>.jsonl    {"key": ..., "image": 7, "sha256": ..., "results": [...], ...}

A line counts only for the very same column, number of threads and image file; others stay for when these come back.
A line that is torn, because the power went or two runs wrote at once, counts as not written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from graphsurgery.errors import InputError
from graphsurgery.evaluation.columns import Column
from graphsurgery.evaluation.dataset import Picture
from graphsurgery.evaluation.tasks import Found, Task


class Store(Protocol):
    """Where results are kept until all are there."""

    def done(self, column: Column, threads: int, pictures: Iterable[Picture]) -> set[int]:
        """Return the ids of those pictures that a column has results of."""

    def add(self, task: Task, found: Found) -> None:
        """Keep the results of a task."""

    def read(self, column: Column, threads: int, pictures: Iterable[Picture]) -> dict[int, Found]:
        """Return the results of a column for those pictures that have some, by id."""


class MemoryStore:
    """Keeps results as long as the process lives."""

    def __init__(self) -> None:
        self._found: dict[str, dict[int, Found]] = {}

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
            with path.open("a+b") as file:
                if file.tell() and not _ends_with_newline(file):
                    file.write(b"\n")
                file.write(json.dumps(line).encode("ascii") + b"\n")
        except OSError as error:
            raise InputError(
                f"{path}: can't be written ({error.strerror}); make room and run again, which goes on from here"
            ) from error

    def read(self, column: Column, threads: int, pictures: Iterable[Picture]) -> dict[int, Found]:
        """As Store."""
        wanted = {picture.id: picture.sha256 for picture in pictures}
        return {
            line["image"]: Found(line["seconds"], tuple(line["kinds"]), line["results"])
            for line in self._lines(column, threads)
            if wanted.get(line["image"]) == line["sha256"]
        }

    def _lines(self, column: Column, threads: int) -> Iterator[dict[str, Any]]:
        start = f'{{"key": "{_key(column, threads)}", '.encode("ascii")
        try:
            with self._path(column).open("rb") as file:
                for line in file:
                    if not line.startswith(start):
                        continue
                    with contextlib.suppress(ValueError):
                        yield json.loads(line)
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(
                f"{self._path(column)}: can't be read ({error.strerror}); begin anew: --restart"
            ) from error

    def _path(self, column: Column) -> Path:
        return self.folder / f"progress_{column.name}.jsonl"


def _key(column: Column, threads: int) -> str:
    return hashlib.sha256(f"{column.fingerprint} {threads}".encode()).hexdigest()


def _ends_with_newline(file: Any) -> bool:
    file.seek(-1, 2)
    return bool(file.read(1) == b"\n")
