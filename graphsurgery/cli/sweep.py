"""sweep: many recipes and models taken to many targets, each in a process of its own, with a table at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import JsonFile, Plugins
from graphsurgery.cli.screen import Display, err, save, screen_for, write_json
from graphsurgery.errors import InputError
from graphsurgery.report import numbers, terminal

if TYPE_CHECKING:
    from graphsurgery.sweep.job import Job
    from graphsurgery.sweep.rows import Row
    from graphsurgery.sweep.run import Done


@app.command("sweep")
def sweep_command(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="Recipes, models, targets and variants.")],
    out_: Annotated[
        Path | None, typer.Option("--out", help="Folder for jobs and tables; model/sweeps/NAME if not given.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Jobs at a time; each uses several cores by itself.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A dask cluster, tcp://host:8786, in place of --workers.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="The folder of an earlier sweep: what got worse is told, and ends with 1.")
    ] = None,
    ap_drop: Annotated[float, typer.Option(min=0, help="How much AP may be lost --against an earlier sweep.")] = 0.0,
    retry: Annotated[bool, typer.Option("--retry", help="Do the jobs again that ended badly.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Do all jobs again.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Print the jobs, and do none.")] = False,
    plugin: Plugins = None,
    json_: JsonFile = None,
) -> None:
    """Take recipes and models to targets, each a job of its own: one that fails or hangs is a row, not the end.

    An interrupted sweep goes on where it stopped. It ends with 1 where a job didn't pass; with --against, where a job
    or its AP got worse than in that sweep.

    Example: python -m graphsurgery sweep zoo.yaml --workers 2 --against model/sweeps/last_week
    """
    from graphsurgery.rewrite.registry import discover
    from graphsurgery.sweep.job import remove
    from graphsurgery.sweep.plan import read_jobs
    from graphsurgery.sweep.rows import read_rows, row_of, worse
    from graphsurgery.sweep.run import folder_of_its_own, in_order, outcomes
    from graphsurgery.sweep.tables import PAGE, as_json, write_tables

    screen = screen_for(json_)
    if scheduler is not None and workers != 1:
        raise InputError("--workers and --scheduler exclude each other: the cluster's workers are its own")
    jobs = read_jobs(file, discover(plugin or []), plugin or [])
    before = read_rows(against) if against is not None else ()
    if list_:
        write_json(json_, [{"job": job.name, "commands": [list(each) for each in job.commands]} for job in jobs])
        screen.print(terminal.plain_table(f"{len(jobs)} jobs", ["job"], [[job.name] for job in jobs]))
        return
    folder = (out_ or Path("model") / "sweeps" / file.stem).resolve()
    place = folder / "jobs"
    with Display() as display, folder_of_its_own(folder):
        done = {} if restart else outcomes(jobs, place, retry=retry)
        by_job = {job.name: row_of(job, done[job.name], place) for job in jobs if job.name in done}
        left = [job for job in jobs if job.name not in done]
        for job in left:
            remove(place, job)
        display.begin("sweep")
        for job, outcome in in_order(left, place, done, _runner(place, workers, scheduler)):
            by_job[job.name] = row_of(job, outcome, place)
            display.advance(len(by_job), len(jobs))
            err.print(f"{job.name}: {outcome.ended}, {outcome.seconds:.0f} s", highlight=False, markup=False)
            rows = [by_job[each.name] for each in jobs if each.name in by_job]
            write_tables(folder, file.stem, rows, len(jobs) - len(rows), {})
        rows = [by_job[job.name] for job in jobs]
        got_worse = worse(rows, before, ap_drop)
        write_tables(folder, file.stem, rows, 0, got_worse)
    write_json(json_, {"folder": str(folder), "rows": as_json(rows), "worse": got_worse})
    screen.print(terminal.plain_table(f"Sweep {file.stem}", _COLUMNS, [_cells(row) for row in rows]))
    _print_errors(rows, got_worse)
    screen.print(f"\n{folder / PAGE}", highlight=False, markup=False, soft_wrap=True)
    if got_worse or (against is None and any(row.ended != "passed" for row in rows)):
        raise typer.Exit(1)


_COLUMNS = ["job", "ended", "multiply-adds", "AP", "seconds"]


def _runner(place: Path, workers: int, scheduler: str | None) -> Callable[[Sequence[Job]], Iterator[Done]]:
    from graphsurgery.sweep.run import BEACON, in_threads, on_cluster

    if scheduler is None:
        return partial(in_threads, folder=place, workers=workers)
    save(place / BEACON, lambda path: path.write_text("the folder of a sweep\n", encoding="utf-8"))
    return partial(on_cluster, folder=place, scheduler=scheduler)


def _cells(row: Row) -> list[str]:
    share = "" if row.share is None else f"{100 * row.share:.1f}%"
    ap = " ".join(numbers.precision(each) for each in row.ap.values())
    return [row.job, row.ended, share, ap, f"{row.seconds:.0f}"]


def _print_errors(rows: Sequence[Row], worse: Mapping[str, Sequence[str]]) -> None:
    for row in rows:
        if row.error is not None:
            err.print(f"{row.job}: {row.error}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    for job, said in worse.items():
        err.print(f"worse: {job}: {'; '.join(said)}", style="red", highlight=False, markup=False, soft_wrap=True)
