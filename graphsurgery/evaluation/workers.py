"""Tasks done in this process, or in several of this machine.

Each process computes with the same number of threads, however many processes there are: torch's sums depend on that
in their last bits, and so the results would depend on the number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import psutil

from graphsurgery.errors import InputError
from graphsurgery.evaluation.tasks import Desk, Found, Task

Done = tuple[Task, Found]
Runner = Callable[[Sequence[Task]], Iterator[Done]]

# how often a process may die at a task before the task is taken for the cause
_DEATHS = 3
# what a large detector takes, and how few tasks don't pay for the seconds in which a process starts
_MEMORY, _FEW_TASKS = 2 << 30, 16

_desk = Desk()


def do(task: Task) -> Found:
    """Do a task at the desk of this process."""
    return _desk.do(task)


def sensible_workers(tasks: int) -> int:
    """Return how many processes to use where nobody says: by cores, free memory, and what there is to do."""
    cores = os.cpu_count() or 1
    return max(1, min(cores, psutil.virtual_memory().available // _MEMORY, -(-tasks // _FEW_TASKS)))


def in_process(tasks: Sequence[Task], desk: Desk | None = None) -> Iterator[Done]:
    """Do the tasks here, one after another."""
    desk = desk or Desk()
    for task in tasks:
        yield task, desk.do(task)


def in_processes(tasks: Sequence[Task], workers: int) -> Iterator[Done]:
    """Do the tasks in `workers` processes; results come in any order.

    When a process dies, the others end with it, and what was in their hands is done again in new ones. Raises
    InputError when they keep dying at the same task, and what a task raises.
    """
    left = deque(tasks)
    deaths: Counter[Task] = Counter()
    while left:
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin)
        flying: dict[Future[Found], Task] = {}
        try:
            while left or flying:
                while left and len(flying) < workers:
                    flying[pool.submit(do, left[0])] = left[0]
                    left.popleft()
                ready, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in ready:
                    found = future.result()
                    yield flying.pop(future), found
        except BrokenProcessPool as error:
            finished = [future for future in flying if future.done() and future.exception() is None]
            for future in finished:
                yield flying.pop(future), future.result()
            deaths.update(flying.values())
            left.extendleft(reversed(flying.values()))
            task, count = deaths.most_common(1)[0] if deaths else (left[0], _DEATHS)
            if count >= _DEATHS:
                raise InputError(
                    f"{count} processes died at image {task.picture.id} of column {task.column.name}, out of memory "
                    "perhaps; try fewer --workers, or --workers 1 to see it happen. What was found so far is kept"
                ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Make this process leave Ctrl-C to its parent, and end with it, even if the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
