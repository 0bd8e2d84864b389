"""Tasks done in a process of its own while this one does something else."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable

from graphsurgery.evaluation.store import Store
from graphsurgery.evaluation.tasks import Task
from graphsurgery.evaluation.workers import WorkerPool


class Beside:
    """Does tasks beside this process, one after another, and puts what is found into `store`.

    One process is enough to use what the steps of a run, which mostly compute on one core, leave idle; more would slow
    them down. Nobody else may use the store until `stop`. Leaving the context before ends the process at once.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._coming: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._pool = WorkerPool(1)
        self._thread = threading.Thread(target=self._work, name="beside")
        self._begun = False

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.end()
        self._end()

    def add(self, tasks: Iterable[Task]) -> None:
        """Have these done too, after those that were added before; within the context, and before `stop`."""
        for task in tasks:
            self._coming.put(task)
        if not self._begun:  # not before the context is there to end it: Ctrl-C may come at any time
            self._begun = True
            self._thread.start()

    def stop(self) -> None:
        """Begin no other task, and return when the one in hand is done. Raises what doing one raised."""
        self._end()
        if self._error is not None:
            raise self._error

    def _end(self) -> None:
        self._stopped.set()
        self._coming.put(None)  # wakes the thread where it waits for a task
        if self._thread.is_alive():  # or Ctrl-C came as it began, and it ends by itself
            self._thread.join()

    def _work(self) -> None:
        try:
            with self._pool:
                while (task := self._coming.get()) is not None and not self._stopped.is_set():
                    for _, found in self._pool.do([task]):
                        if found.unreadable is None:
                            self._store.add(task, found)
        except BaseException as error:  # kept for who asks for the results, in the thread that does
            self._error = error
