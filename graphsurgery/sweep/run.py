"""Jobs done by threads of this process, each of which waits for a process, or by a dask cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from graphsurgery import files
from graphsurgery.errors import InputError
from graphsurgery.files.commit import locked
from graphsurgery.processes import cluster
from graphsurgery.sweep.job import Job, Outcome, read_outcome, run_job, skip_job

Done = tuple[Job, Outcome]

# a file in the folder of all jobs, by which a worker sees that it has the same folder
BEACON = "sweep.txt"


@dataclass(frozen=True)
class Placed:
    """A job and the folder of all jobs, which is at the same path on all machines."""

    job: Job
    folder: Path


@contextmanager
def folder_of_its_own(folder: Path) -> Iterator[None]:
    """Make the folder of a sweep, and keep another sweep from it meanwhile, which would do the same jobs again.

    Raises InputError where another is at it, or where the folder can't be made.
    """
    with ExitStack() as stack:
        try:
            (folder / "jobs").mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
        except OSError as error:
            raise InputError(f"{folder}: can't be written ({files.reason(error)})") from error
        yield


def outcomes(jobs: Sequence[Job], folder: Path, *, retry: bool) -> dict[str, Outcome]:
    """Return by name how jobs ended that are done; with `retry` those that ended badly are not.

    One that looks at another's parts is done if the other is.
    """
    done: dict[str, Outcome] = {}
    for job in jobs:
        found = read_outcome(folder, job) if job.parts_of is None or job.parts_of in done else None
        if found is not None and (found.ended == "passed" or not retry):
            done[job.name] = found
    return done


def in_order(
    jobs: Sequence[Job], folder: Path, done: Mapping[str, Outcome], run: Callable[[Sequence[Job]], Iterator[Done]]
) -> Iterator[Done]:
    """Do the jobs by `run`: first those that make parts, then those that look at them; `done` are others' outcomes.

    Where there are no parts, a job ends as the one that was to make them did. Raises what `run` raises.
    """
    known = dict(done)
    for job, outcome in run([job for job in jobs if job.parts_of is None]):
        known[job.name] = outcome
        yield job, outcome
    left = []
    for job in jobs:
        if job.parts_of is not None:
            if known[job.parts_of].ended == "passed":
                left.append(job)
            else:
                yield job, skip_job(job, known[job.parts_of], folder)
    if left:
        yield from run(left)


def in_threads(jobs: Sequence[Job], folder: Path, workers: int) -> Iterator[Done]:
    """Do the jobs here, `workers` at a time; they come in the order in which they end.

    When whoever asks wants no more, on Ctrl-C for example, those at work are ended.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        flying: dict[Future[Outcome], Job] = {pool.submit(run_job, job, folder, stop): job for job in jobs}
        try:
            while flying:
                ready, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield flying.pop(future), future.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def on_cluster(jobs: Sequence[Job], folder: Path, scheduler: str) -> Iterator[Done]:
    """Do the jobs on the cluster of `scheduler`, tcp://host:port. Raises as `processes.cluster.on_cluster`."""
    placed = [Placed(job, folder) for job in jobs]
    for each, outcome in cluster.on_cluster(placed, _WORK, scheduler):
        yield each.job, outcome


def _do(placed: Placed) -> Outcome:
    return run_job(placed.job, placed.folder)


def what_is_wrong(placed: Sequence[Placed]) -> str | None:
    """Say, on a worker, why it can't do such jobs; None if it can."""
    missing = [each.folder for each in placed if not (each.folder / BEACON).is_file()]
    return f"there is no folder {missing[0]} of this sweep" if missing else None


def _first(placed: Sequence[Placed]) -> Sequence[Placed]:
    return placed[:1]


def _called(placed: Placed) -> str:
    return f"job '{placed.job.name}'"


_WORK: cluster.Work[Placed, Outcome] = cluster.Work(
    _do,
    what_is_wrong,
    _first,
    _called,
    files="Recipes, models and the sweep's folder must lie at the same paths there",
    kept="The jobs that ended are kept",
)
