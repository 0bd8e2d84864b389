"""sweep.html: a sweep at a glance, subjects by targets, and each job in a row. It needs no network and no script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined

from graphsurgery.parts.folder import REPORT
from graphsurgery.report import numbers
from graphsurgery.report.terminal import rounded_count
from graphsurgery.sweep.job import LOG, PARTS
from graphsurgery.sweep.rows import Row

_NO_TARGET = "no target"


def render(name: str, rows: Sequence[Row], left: int, worse: Mapping[str, Sequence[str]]) -> str:
    """Return the page; `left` is how many jobs are to do, `worse` says by job what got worse since an earlier sweep."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    css = resources.files("graphsurgery.report").joinpath("report.css").read_text(encoding="utf-8")
    template = resources.files("graphsurgery.sweep").joinpath("sweep.html.jinja").read_text(encoding="utf-8")
    targets = list(dict.fromkeys(row.target or _NO_TARGET for row in rows))
    kinds = sorted({kind for row in rows for kind in row.ap})
    return environment.from_string(template).render(
        css=css,
        name=name,
        headline=_headline(rows, left, worse),
        all_passed=all(row.ended == "passed" for row in rows) and not worse,
        targets=targets,
        grid=_grid(rows, targets),
        kinds=kinds,
        rows=[_row(row, kinds, worse.get(row.job, ())) for row in rows],
        worse=worse,
    )


def _headline(rows: Sequence[Row], left: int, worse: Mapping[str, Sequence[str]]) -> str:
    ended = Counter(row.ended for row in rows)
    passed = ended.pop("passed", 0)
    said = ", ".join(
        [
            f"{passed} of {len(rows) + left} jobs passed",
            *(f"{count} {how}" for how, count in ended.most_common()),
            *([f"{left} to do"] if left else ()),
        ]
    )
    return f"{said}, {len(worse)} got worse" if worse else said


def _grid(rows: Sequence[Row], targets: Sequence[str]) -> list[tuple[str, list[dict[str, str] | None]]]:
    """Return subject (with its variant) by target: how it ended, and in a word what it brought."""
    cells: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        subject = f"{row.subject}, {row.variant}" if row.variant else row.subject
        figures = [_share(row), *map(numbers.precision, _aps(row))]
        said = "\n".join(filter(None, figures)) if row.ended == "passed" else row.ended
        cell = {"ended": _class(row), "said": said or "passed", "job": row.job, "why": row.error or ""}
        cells.setdefault(subject, {})[row.target or _NO_TARGET] = cell
    return [(subject, [found.get(target) for target in targets]) for subject, found in cells.items()]


def _share(row: Row) -> str:
    if row.share is not None:
        return f"{100 * row.share:.1f} %"
    return "host only" if row.target and row.parts and row.nodes_taken is None else ""


def _aps(row: Row) -> list[float | None]:
    return list(row.ap.values())[:1]


def _row(row: Row, kinds: Sequence[str], worse: Sequence[str]) -> dict[str, Any]:
    return {
        "job": row.job,
        "link": _link(row),
        "ended": row.ended,
        "class": _class(row),
        "nodes": _of(row.nodes_taken, row.nodes, str),
        "work": _of(row.multiply_adds_taken, row.multiply_adds, rounded_count),
        "ap": [numbers.precision(row.ap.get(kind)) for kind in kinds],
        "image": numbers.milliseconds(row.image_ms),
        "size": numbers.NOTHING if row.bytes is None else f"{row.bytes / 1e6:,.1f}",
        "seconds": f"{row.seconds:,.0f}",
        "peak": f"{row.peak_mb:,.0f}",
        "said": "; ".join([*worse, *([row.error] if row.error else [])]),
    }


def _link(row: Row) -> str:
    """Return where the report is, or the log where there is none."""
    if row.ended == "passed":
        return "/".join(("jobs", quote(row.parts_of or row.job), PARTS, REPORT))
    return "/".join(("jobs", quote(row.job), LOG))


def _of(taken: int | None, total: int | None, shown: Any) -> str:
    if total is None:
        return numbers.NOTHING
    return shown(total) if taken is None else f"{shown(taken)} of {shown(total)}"


def _class(row: Row) -> str:
    return "passed" if row.ended == "passed" else "skipped" if row.ended == "missing tool" else "failed"
