"""Tasks done beside this process: what is found is there when it is asked for, and nothing outlives who asked."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from bars import Deadly, Slow, bars

from graphsurgery.errors import InputError
from graphsurgery.evaluation.beside import Beside
from graphsurgery.evaluation.store import MemoryStore
from graphsurgery.evaluation.tasks import Found, Task
from graphsurgery.evaluation.workers import InProcess

pytest.importorskip("pycocotools")


class Counting(MemoryStore):
    """A store that can be waited for."""

    def __init__(self, until: int) -> None:
        super().__init__()
        self.left, self.full = until, threading.Event()

    def add(self, task: Task, found: Found) -> None:
        super().add(task, found)
        self.left -= 1
        if not self.left:
            self.full.set()


def test_what_was_added_is_done_however_late_it_came(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path, 4, marked=2)
    notes = tmp_path / "notes"
    notes.mkdir()
    tasks = [Task(Deadly(column, notes), picture, 1) for picture in dataset.pictures]  # one process dies
    store = Counting(4)
    with Beside(store) as beside:
        beside.add(tasks[:2])
        beside.add(tasks[2:])
        assert store.full.wait(120)
        beside.stop()
    expected = {
        task.picture.id: found.results for task, found in InProcess().do([replace(t, column=column) for t in tasks])
    }
    there = store.read(column, 1, dataset.pictures)
    assert {identity: found.results for identity, found in there.items()} == expected


def test_what_is_left_when_it_is_stopped_is_not_begun(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path, 3)
    store = Counting(1)
    with Beside(store) as beside:
        beside.add(Task(column, picture, 1) for picture in dataset.pictures * 1000)
        assert store.full.wait(120)
        beside.stop()
        assert -2999 < store.left <= 0


def test_what_a_task_raises_is_told_when_it_is_stopped(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    with Beside(MemoryStore()) as beside:
        beside.add([Task(replace(column, fingerprint="stale"), dataset.pictures[0], 1)])
        while beside._thread.is_alive():
            time.sleep(0.05)
        with pytest.raises(InputError, match="holds other parts than when this began"):
            beside.stop()


def test_leaving_ends_the_process_in_the_middle_of_a_task(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    slow = Slow(column, tmp_path / "begun")
    before = set(psutil.Process().children())
    with Beside(MemoryStore()) as beside:
        beside.add([Task(slow, dataset.pictures[0], 1)])
        deadline = time.monotonic() + 120
        while not slow.begun.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert slow.begun.exists()
    assert not beside._thread.is_alive()
    started = set(psutil.Process().children()) - before
    assert not [child for child in started if "spawn_main" in " ".join(child.cmdline())]


def test_no_thread_is_there_before_the_context_that_ends_it() -> None:
    beside = Beside(MemoryStore())
    assert beside.__enter__() is beside
    assert not beside._thread.is_alive()  # Ctrl-C may come here, and nobody would call __exit__
