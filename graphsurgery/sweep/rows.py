"""What each job of a sweep comes to, as a row of a table, and where it is worse than in an earlier sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from graphsurgery import files
from graphsurgery.errors import InputError
from graphsurgery.evaluation import columns
from graphsurgery.files.door import read_json
from graphsurgery.graph.model import Model
from graphsurgery.graph.multiply_adds import multiply_adds
from graphsurgery.parts.manifest import FILE_NAME
from graphsurgery.report.run_file import read_run
from graphsurgery.sweep.job import PARTS, SUPPORT, Ended, Job, Outcome

ROWS = "sweep.json"

Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]

_MOST_BYTES = 256 * files.MB


@dataclass(frozen=True)
class Row:
    """How a job ended and what it brought; what isn't known of it is None.

    `nodes` and `multiply_adds` are those of all parts, `_taken` those that the target takes of the parts for it;
    `bytes` the size of the parts' files; `ap` by kind (bbox, segm, keypoints), `original_ap` that of the original model
    on the same images; `image_ms` the time of an image on this machine's CPU. `parts_of` is the job that made the
    parts, where that is another one.
    """

    job: str
    subject: str
    target: str | None
    variant: str | None
    ended: Ended
    error: str | None = None
    parts: Count | None = None
    nodes: Count | None = None
    nodes_taken: Count | None = None
    multiply_adds: Count | None = None
    multiply_adds_taken: Count | None = None
    ap: Mapping[str, Number | None] = field(default_factory=dict)
    original_ap: Mapping[str, Number | None] = field(default_factory=dict)
    image_ms: Number | None = None
    bytes: Count | None = None
    seconds: Number = 0.0
    peak_mb: Number = 0.0
    parts_of: str | None = None

    @property
    def share(self) -> float | None:
        """The share of the multiply-adds that the target takes."""
        if not self.multiply_adds or self.multiply_adds_taken is None:
            return None
        return self.multiply_adds_taken / self.multiply_adds


_STORED = TypeAdapter(tuple[Row, ...])


def row_of(job: Job, outcome: Outcome, folder: Path) -> Row:
    """Return the row of a job that ended; `folder` is that of all jobs."""
    row = Row(
        job.name,
        job.subject,
        job.target,
        job.variant,
        outcome.ended,
        outcome.error,
        seconds=outcome.seconds,
        peak_mb=outcome.peak_mb,
        parts_of=job.parts_of,
    )
    place = folder / (job.parts_of or job.name) / PARTS
    if outcome.ended != "passed" or not (place / FILE_NAME).is_file():
        return row
    run = read_run(place)
    made = run if job.variant is None else (run.get("variants") or {}).get(job.variant) or {}
    parts = made.get("parts") or ()
    support = (
        list((made.get("support") or {}).values()) if job.parts_of is None else _support(folder / job.name / SUPPORT)
    )
    at = place if job.variant is None else place / job.variant
    models = [at / str(part["file"]) for part in parts if "file" in part]
    evaluation = run.get("evaluation") or {}
    column = job.variant or columns.PARTS
    seconds = (evaluation.get("seconds_per_image") or {}).get(column)
    known = {
        **asdict(row),
        "parts": len(parts),
        "nodes": sum(part["nodes"] for part in parts),
        "nodes_taken": sum(each["nodes_taken"] for each in support) if support else None,
        "multiply_adds": sum(_multiply_adds(file, file.stat().st_mtime_ns) for file in models),
        "multiply_adds_taken": sum(each["multiply_adds_taken"] for each in support) if support else None,
        "ap": {kind: row[column] for kind, row in (evaluation.get("ap") or {}).items() if column in row},
        "original_ap": {
            kind: row[columns.ORIGINAL] for kind, row in (evaluation.get("ap") or {}).items() if columns.ORIGINAL in row
        },
        "image_ms": None if seconds is None else round(1000 * seconds, 3),
        "bytes": sum(_bytes(each) for each in models),
    }
    return Row(**known)


def _support(file: Path) -> list[Any]:
    """Return what `support` wrote of each part. Raises InputError where it can't be read."""
    try:
        return list(read_json(file, _MOST_BYTES))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: can't be read ({files.reason(error)}); sweep again with --restart") from error


@cache
def _multiply_adds(file: Path, written: int) -> int:
    """Return those of a file as it was `written`; each target's row asks for those of the same parts."""
    return sum(number or 0 for number in multiply_adds(Model.load(file)))


def _bytes(file: Path) -> int:
    """Return the size of a model, with the weights that it keeps in a file beside it."""
    return sum(each.stat().st_size for each in file.parent.glob(f"{file.name}*"))


def read_rows(folder: Path) -> tuple[Row, ...]:
    """Return the rows of an earlier sweep. Raises InputError where there are none."""
    place = folder / ROWS
    try:
        return _STORED.validate_python(read_json(place, _MOST_BYTES))
    except ValidationError as error:
        raise InputError(f"{place}: not of this version: {files.first_fault(error)}; sweep again") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: can't be read ({files.reason(error)}); give the folder of a sweep") from error


def worse(rows: Sequence[Row], before: Sequence[Row], drop: float) -> dict[str, list[str]]:
    """Return what got worse since an earlier sweep, by job: its verdict, or an AP by more than `drop`.

    A job that is gone got worse too; one that is new, or that failed before, can't.
    """
    now, found = {row.job: row for row in rows}, {}
    for old in before:
        row = now.get(old.job)
        said = ["is not in this sweep any more"] if row is None else list(_worse(row, old, drop))
        if said:
            found[old.job] = said
    return found


def _worse(row: Row, old: Row, drop: float) -> list[str]:
    if old.ended != "passed":
        return []
    if row.ended != "passed":
        return [f"{row.ended}, passed before" + (f": {row.error}" if row.error else "")]
    said = []
    for kind, earlier in old.ap.items():
        ap = row.ap.get(kind)
        if earlier is not None and (ap is None or ap < earlier - drop):
            said.append(f"{kind} AP {'unknown' if ap is None else f'{ap:.4f}'}, {earlier:.4f} before")
    return said
