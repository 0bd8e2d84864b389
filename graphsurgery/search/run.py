"""Attempts done by threads of this process, each of which waits for a process, or by a dask cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial

import psutil

from graphsurgery.processes import cluster
from graphsurgery.search.attempt import Attempt, Found, Processes, do

Done = tuple[Attempt, Found]
Runner = Callable[[Sequence[Attempt]], Iterator[Done]]

_MEMORY = 2 << 30  # what a process and its quantizer take of a large part


def sensible_workers() -> int:
    """Return how many attempts to do at a time where nobody says: by cores and free memory."""
    return max(1, min(os.cpu_count() or 1, psutil.virtual_memory().available // _MEMORY))


def in_threads(attempts: Sequence[Attempt], workers: int) -> Iterator[Done]:
    """Do the attempts here, `workers` at a time; they come in the order in which they end.

    When whoever asks wants no more, on Ctrl-C for example, those at work are ended.
    """
    processes = Processes()
    with ThreadPoolExecutor(max(1, min(workers, len(attempts)))) as pool:
        flying: dict[Future[Found], Attempt] = {pool.submit(processes.do, each): each for each in attempts}
        try:
            while flying:
                ready, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield flying.pop(future), future.result()
        finally:
            for future in flying:
                future.cancel()
            processes.stop()


def on_cluster(attempts: Sequence[Attempt], scheduler: str) -> Iterator[Done]:
    """Do the attempts on the cluster of `scheduler`, tcp://host:port. Raises as `processes.cluster.on_cluster`."""
    return cluster.on_cluster(attempts, _WORK, scheduler)


def runner(workers: int | None, scheduler: str | None) -> Runner:
    """Return what does attempts: a cluster where one is named, else so many processes, as many as pay if None."""
    if scheduler is not None:
        cluster.require_distributed()
        return partial(on_cluster, scheduler=scheduler)
    return partial(in_threads, workers=workers or sensible_workers())


def what_is_wrong(attempts: Sequence[Attempt]) -> str | None:
    """Say, on a worker, why it can't do such attempts; None if it can."""
    for attempt in attempts:
        folders = [folder for sample in attempt.material.samples for folder in sample.folders]
        missing = [path for path in (attempt.material.model, *folders) if not path.exists()]
        if missing:
            return f"there is no {missing[0]}"
    return None


def _one_of_each_part(attempts: Sequence[Attempt]) -> list[Attempt]:
    return list({attempt.material.part: attempt for attempt in reversed(attempts)}.values())


def _called(attempt: Attempt) -> str:
    return f"part '{attempt.material.part}' with {', '.join(f'{use.name} {use.options}' for use in attempt.uses)}"


_WORK: cluster.Work[Attempt, Found] = cluster.Work(
    do,
    what_is_wrong,
    _one_of_each_part,
    _called,
    files="The captured tensors and the search's folder must lie at the same paths there",
    kept="What was found so far is kept",
)
