"""Tasks done, and columns judged, in this process or in several of this machine.

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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Protocol, TypeVar

import psutil

from graphsurgery.errors import InputError
from graphsurgery.evaluation.columns import Column
from graphsurgery.evaluation.judge import Judged, JudgeTask
from graphsurgery.evaluation.tasks import Found, Task, TaskRunner
from graphsurgery.files.interrupts import ctrl_c_held_back

Done = tuple[Task, Found]


class Runner(Protocol):
    """Who does tasks, and then judges columns; results come in any order."""

    def do(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """Detect. Raises what a task does."""

    def judge(self, tasks: Sequence[JudgeTask]) -> Iterator[tuple[JudgeTask, Judged]]:
        """Measure the AP of columns. Raises what a task does."""


class _Work(Protocol):
    """What a process can have in hand: a Task or a JudgeTask."""

    @property
    def column(self) -> Column: ...

    @property
    def called(self) -> str: ...


_Item = TypeVar("_Item", bound=_Work)
_Result = TypeVar("_Result")

# how often a process may die at a task before the task is taken for the cause
_DEATHS = 3
# what a large detector takes, and how few tasks don't pay for the seconds in which a process starts
_MEMORY, _FEW_TASKS = 2 << 30, 16

_CONTEXT = multiprocessing.get_context("spawn")

_runner = TaskRunner()


def do(task: Task) -> Found:
    """Do a task at the runner of this process."""
    return _runner.do(task)


def _judge(task: JudgeTask) -> Judged:
    _runner.close()  # what was found may be a lot, and no detector is needed any more
    return task.do()


def sensible_workers(tasks: int) -> int:
    """Return how many processes to use where nobody says: by cores, free memory, and what there is to do."""
    cores = os.cpu_count() or 1
    return max(1, min(cores, psutil.virtual_memory().available // _MEMORY, -(-tasks // _FEW_TASKS)))


class InProcess:
    """Does tasks here, one after another."""

    def do(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """As Runner."""
        runner = TaskRunner()
        for task in tasks:
            yield task, runner.do(task)

    def judge(self, tasks: Sequence[JudgeTask]) -> Iterator[tuple[JudgeTask, Judged]]:
        """As Runner."""
        for task in tasks:
            yield task, task.do()


class WorkerPool:
    """Processes of this machine, each with one task at a time; a new one takes the place of one that dies.

    All end with the context, and with this process, even if it is killed.
    """

    def __init__(self, count: int) -> None:
        self._lifeline, self._held = _CONTEXT.Pipe(duplex=False)
        self._is_cut = False
        self._workers = [_Worker(self._lifeline) for _ in range(count)]

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        for worker in self._workers:
            worker.shutdown()

    def end(self) -> None:
        """End the processes at once; whoever waits for one, in another thread perhaps, gets no more results."""
        self._is_cut = True
        self._held.close()

    def do(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """As Runner.

        A process goes on with the column that it has open, and where that is done it takes one that no other is at: to
        open a detector takes seconds, torch's several. When a process dies, what was in its hands is done again. Raises
        InputError when they keep dying at the same task; all processes end then, as they do when a task raises, and
        when the caller doesn't ask for all results.
        """
        return self._results(tasks, do, self._workers)

    def judge(self, tasks: Sequence[JudgeTask]) -> Iterator[tuple[JudgeTask, Judged]]:
        """As Runner, by the processes that have begun; they die and end as `do` has it.

        To begin one takes as long as the AP of a hundred images, so fewer than two of them leave it to this process.
        """
        begun = [worker for worker in self._workers if worker.column is not None]
        return self._results(tasks, _judge, begun) if len(begun) > 1 else InProcess().judge(tasks)

    def _results(
        self, tasks: Sequence[_Item], do: Callable[[_Item], _Result], workers: Sequence[_Worker]
    ) -> Iterator[tuple[_Item, _Result]]:
        left: dict[str, deque[_Item]] = {}
        for task in tasks:
            left.setdefault(task.column.name, deque()).append(task)
        deaths: Counter[str] = Counter()
        flying: dict[Future[_Result], tuple[_Worker, _Item]] = {}
        try:
            while left or flying:
                at_work = {worker for worker, _ in flying.values()}
                for worker in workers:
                    if left and worker not in at_work:
                        task = _next_task(left, worker.column, {other.column for other in workers})
                        flying[worker.submit(do, task)] = (worker, task)
                ready, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in ready:
                    worker, task = flying.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool as error:
                        if self._is_cut:
                            return
                        deaths[task.called] += 1
                        if deaths[task.called] == _DEATHS:
                            raise InputError(
                                f"{_DEATHS} processes died at {task.called}, out of memory perhaps; try fewer "
                                "--workers, or --workers 1 to see it happen. What was found so far is kept"
                            ) from error
                        left.setdefault(task.column.name, deque()).appendleft(task)
                        worker.restart()
                        continue
                    yield task, result
        except BaseException:  # Ctrl-C, what a task raised, or a caller that wants no more: nobody waits for the rest
            self.end()
            raise


class _Worker:
    """One process, and the column whose detector it has open."""

    def __init__(self, lifeline: Connection) -> None:
        self._lifeline = lifeline
        self.restart()

    def restart(self) -> None:
        """Have another process, which is started with its first task."""
        self.column: str | None = None
        self._pool = ProcessPoolExecutor(1, _CONTEXT, initializer=_begin, initargs=(self._lifeline,))

    def submit(self, do: Callable[[_Item], _Result], task: _Item) -> Future[_Result]:
        """Have the process do a task."""
        with ctrl_c_held_back():  # a process that is just starting can't leave it to its parent yet
            try:
                future = self._pool.submit(do, task)
            except BrokenProcessPool:  # it died between two tasks
                self.restart()
                future = self._pool.submit(do, task)
        self.column = task.column.name
        return future

    def shutdown(self) -> None:
        """Return when the process has ended."""
        self._pool.shutdown(cancel_futures=True)


def _next_task(left: dict[str, deque[_Item]], own: str | None, open_: set[str | None]) -> _Item:
    """Take a task from `left`: of column `own`, else of the first that isn't `open_`, else of the longest."""
    if own is not None and own in left:
        column = own
    else:
        column = next((each for each in left if each not in open_), None) or max(left, key=lambda each: len(left[each]))
    task = left[column].popleft()
    if not left[column]:
        del left[column]
    return task


def _begin(lifeline: Connection) -> None:
    """Make this process leave Ctrl-C to its parent, and end with the lifeline, even if the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def hang_on() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv_bytes()
        os._exit(1)

    threading.Thread(target=hang_on, daemon=True).start()
