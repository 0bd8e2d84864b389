"""What a tool says of a part that it compiled: what runs where, its figures, and how far its numbers are off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from graphsurgery import files
from graphsurgery.errors import InputError

REPORT = "report.json"
_MOST_BYTES = 64 * files.MB
_NOTHING_LEFT = -999.0  # dB


class Left(BaseModel):
    """An operator that the tool leaves to the CPU, as the tool calls it, and why where it says so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operator: str
    name: str
    why: str = ""


class Report(BaseModel):
    """`accelerated` operators run on the accelerator, those `left` on the CPU, in the tool's own operators.

    `figures` are what the tool says beside that, `sqnr_db` is by output; null where all numbers are equal.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    accelerated: int
    left: list[Left] = []
    figures: dict[str, int | float | str] = {}
    sqnr_db: dict[str, float | None] = {}

    @property
    def worst(self) -> float | None:
        """The lowest SQNR of an output, in dB; None where all are equal, or none was measured."""
        return min((db for db in self.sqnr_db.values() if db is not None), default=None)

    def with_sqnr(self, found: Mapping[str, float]) -> Report:
        """Return the report with the SQNR of each output."""
        in_json = {name: None if db == math.inf else round(max(db, _NOTHING_LEFT), 2) for name, db in found.items()}
        return self.model_copy(update={"sqnr_db": in_json})


def read_report(folder: Path, place: str) -> Report:
    """Read report.json, which a tool's script wrote, and take it away. Raises InputError for what is none."""
    path = folder / REPORT
    try:
        found = Report.model_validate_json(files.read_bytes(path, _MOST_BYTES))
        path.unlink()
    except OSError as error:
        raise InputError(f"{place}: its tool wrote no {REPORT} ({files.reason(error)})") from error
    except ValidationError as error:
        raise InputError(f"{place}: {REPORT} is not what its script writes: {files.first_fault(error)}") from error
    return found
