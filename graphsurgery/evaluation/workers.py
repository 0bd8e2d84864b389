"""Tasks done in this process, or in several of this machine.

Each process computes with the same number of threads, however many processes there are: torch's sums depend on that
in their last bits, and so the results would depend on the number of workers.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import Connection

import psutil

from graphsurgery.errors import InputError
from graphsurgery.evaluation.tasks import Found, Task, TaskRunner

Done = tuple[Task, Found]
Runner = Callable[[Sequence[Task]], Iterator[Done]]

# how often a process may die at a task before the task is taken for the cause
_DEATHS = 3
# what a large detector takes, and how few tasks don't pay for the seconds in which a process starts
_MEMORY, _FEW_TASKS = 2 << 30, 16

_CONTEXT = multiprocessing.get_context("spawn")

_runner = TaskRunner()


def do(task: Task) -> Found:
    """Do a task at the runner of this process."""
    return _runner.do(task)


def sensible_workers(tasks: int) -> int:
    """Return how many processes to use where nobody says: by cores, free memory, and what there is to do."""
    cores = os.cpu_count() or 1
    return max(1, min(cores, psutil.virtual_memory().available // _MEMORY, -(-tasks // _FEW_TASKS)))


def in_process(tasks: Sequence[Task]) -> Iterator[Done]:
    """Do the tasks here, one after another."""
    runner = TaskRunner()
    for task in tasks:
        yield task, runner.do(task)


class Lifeline:
    """What keeps processes alive: they end at once when it is cut, or when the process that holds it ends."""

    def __init__(self) -> None:
        self.end, self._held = _CONTEXT.Pipe(duplex=False)
        self.is_cut = False

    def cut(self) -> None:
        """End the processes that hang on it, and those that will."""
        self.is_cut = True
        self._held.close()


def in_processes(tasks: Iterable[Task], workers: int, lifeline: Lifeline | None = None) -> Iterator[Done]:
    """Do the tasks in `workers` processes; results come in any order.

    A task is asked for when a process is free to do it. When a process dies, the others end with it, and what was in
    their hands is done again in new ones, unless `lifeline`, on which they hang, was cut: then this ends as well. So do
    they all when the caller does not ask for all results. Raises InputError when they keep dying at the same task, and
    what a task raises.
    """
    lifeline = lifeline or Lifeline()
    coming, left = iter(tasks), deque[Task]()
    deaths: Counter[Task] = Counter()

    def is_one_left() -> bool:
        if not left:
            left.extend(islice(coming, 1))
        return bool(left)

    while is_one_left():
        pool = ProcessPoolExecutor(workers, _CONTEXT, initializer=_begin, initargs=(lifeline.end,))
        flying: dict[Future[Found], Task] = {}
        try:
            while flying or is_one_left():
                while len(flying) < workers and is_one_left():
                    with _ctrl_c_held_back():  # a process that is just starting can't leave it to its parent yet
                        flying[pool.submit(do, left[0])] = left[0]
                    left.popleft()
                ready, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in ready:
                    found = future.result()
                    yield flying.pop(future), found
        except BrokenProcessPool as error:
            if lifeline.is_cut:
                return
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
        except BaseException:  # Ctrl-C, what a task raised, or a caller that wants no more: nobody waits for the rest
            lifeline.cut()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Let Ctrl-C wait, for this thread and for the processes that it starts, where the system can."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(lifeline: Connection) -> None:
    """Make this process leave Ctrl-C to its parent, and end with the lifeline, even if the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def hang_on() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv_bytes()
        os._exit(1)

    threading.Thread(target=hang_on, daemon=True).start()
