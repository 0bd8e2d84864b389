"""The tables of a sweep: sweep.json, which an earlier sweep is read from, sweep.csv and sweep.html.

They are written anew whenever a job ends, so that a sweep of a day can be looked at meanwhile, and after Ctrl-C.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from graphsurgery import files
from graphsurgery.errors import InputError
from graphsurgery.sweep.page import render
from graphsurgery.sweep.rows import ROWS, Row

TABLE, PAGE = "sweep.csv", "sweep.html"


def write_tables(folder: Path, name: str, rows: Sequence[Row], left: int, worse: Mapping[str, Sequence[str]]) -> None:
    """Write the three, each whole or not at all. Raises InputError where the folder can't be written.

    `left` is how many jobs haven't ended; `worse` says by job what got worse since an earlier sweep.
    """
    for file, text in (
        (ROWS, json.dumps(as_json(rows), indent=1) + "\n"),
        (TABLE, as_csv(rows)),
        (PAGE, render(name, rows, left, worse)),
    ):
        try:
            with files.written_whole(folder / file) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{folder / file}: can't be written ({files.reason(error)})") from error


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as sweep.json has them."""
    return [{**asdict(row), "ap": dict(row.ap), "original_ap": dict(row.original_ap)} for row in rows]


def as_csv(rows: Sequence[Row]) -> str:
    """Return the rows as a table for a spreadsheet, a column for each kind of AP."""
    kinds = sorted({kind for row in rows for kind in row.ap})
    flat = []
    for row in as_json(rows):
        ap, original = row.pop("ap"), row.pop("original_ap")
        row |= {f"ap_{kind}": ap.get(kind) for kind in kinds}
        row |= {f"original_ap_{kind}": original.get(kind) for kind in kinds}
        flat.append({key: _harmless(value) for key, value in row.items()})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]) if flat else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _harmless(value: Any) -> Any:
    """Return a value that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
