"""What attempts gave, one line of JSON each, so that a search that is interrupted goes on where it stopped.

    FOLDER/found.jsonl     {"key": ..., "part": "box_head", "uses": [...], "found": {...}}

A line counts for what has the same part, samples, passes, options and version. A line that is torn, or isn't of this
form, counts as not written. What failed is kept as well: the same search comes to the same end. Where a process crashed
or was stopped at a limit, that counts for the limits that it had: given more, it is tried again.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from graphsurgery import files
from graphsurgery.errors import InputError
from graphsurgery.files.lines import append_line, read_lines
from graphsurgery.search.attempt import Attempt, Found

FOUND = "found.jsonl"
_MOST_BYTES, _LONGEST_LINE = 1024 * files.MB, 16 * files.MB
_Count = Annotated[int, Field(ge=0, lt=2**80)]


class _Found(TypedDict):
    sqnr_db: dict[str, Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]]
    multiply_adds: _Count
    in_integers: _Count
    bit_operations: _Count
    bytes: _Count
    layers: tuple[str, ...]
    failed: str | None
    died: bool


class _Line(TypedDict):
    key: str
    found: _Found


_LINE = TypeAdapter(_Line)


class Store:
    """Results in a folder, by what they are of. Raises InputError where it can't be read or written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FOUND
        self._found: dict[str, Found] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for line in read_lines(self._path, _MOST_BYTES, _LONGEST_LINE):
                with contextlib.suppress(ValidationError):
                    read = _LINE.validate_json(line, strict=True)
                    self._found[read["key"]] = Found(**read["found"])
        except OSError as error:
            raise InputError(
                f"{self._path}: can't be read ({files.reason(error)}); remove it, or give --out"
            ) from error

    def get(self, attempt: Attempt) -> Found | None:
        """Return what an attempt gave, None where it is still to do."""
        return self._found.get(attempt.key) or self._found.get(attempt.key_with_limits)

    def add(self, attempt: Attempt, found: Found) -> None:
        """Keep what an attempt gave; it is in the file when this returns."""
        key = attempt.key_with_limits if found.died else attempt.key
        self._found[key] = found
        line = {
            "key": key,
            "part": attempt.material.part,
            "uses": [[use.name, json.loads(use.options)] for use in attempt.uses],
            "found": asdict(found),
        }
        try:
            append_line(self._path, json.dumps(line).encode("ascii"))
        except OSError as error:
            raise InputError(
                f"{self._path}: can't be written ({error.strerror or error}); make room and run again, which goes on "
                "from here"
            ) from error
