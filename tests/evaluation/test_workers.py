"""Tasks in several processes: the same results, whatever dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from bars import Deadly, Noting, bars, write_parts

from graphsurgery.errors import InputError
from graphsurgery.evaluation.columns import Column, PartsColumn
from graphsurgery.evaluation.dataset import Picture
from graphsurgery.evaluation.judge import Judge, JudgeTask
from graphsurgery.evaluation.store import MemoryStore, Store
from graphsurgery.evaluation.tasks import Found, Task
from graphsurgery.evaluation.workers import Done, InProcess, WorkerPool, sensible_workers
from graphsurgery.parts.ap_protocol import ApProtocol

pytest.importorskip("pycocotools")


def in_processes(tasks: Sequence[Task], workers: int) -> Iterator[Done]:
    with WorkerPool(workers) as pool:
        yield from pool.do(tasks)


def results(done: list[Done]) -> dict[int, object]:
    assert len({task.picture.id for task, _ in done}) == len(done), "an image came twice"
    return {task.picture.id: (found.kinds, found.results, found.unreadable) for task, found in done}


def test_several_processes_find_what_one_finds(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path, 9)
    tasks = [Task(column, picture, 1) for picture in dataset.pictures]
    expected = results(list(InProcess().do(tasks)))
    assert len(expected) == 9
    assert results(list(in_processes(tasks, 2))) == expected


def test_a_process_opens_what_no_other_is_at(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path, 12)
    notes = tmp_path / "notes"
    notes.mkdir()
    names = ["original", "parts", "int8", "int16"]
    tasks = [Task(Noting(column, notes, name), picture, 1) for name in names for picture in dataset.pictures]
    assert len(list(in_processes(tasks, 2))) == 48
    opened = [note.name.split()[0] for note in notes.iterdir()]
    assert set(opened) == set(names)
    assert len(opened) <= 5, "besides the four, the last one is opened by who has nothing else to do"


def test_a_process_that_dies_loses_nothing(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path, 8, marked=4)
    notes = tmp_path / "notes"
    notes.mkdir()
    tasks = [Task(Deadly(column, notes), picture, 1) for picture in dataset.pictures]
    done = list(in_processes(tasks, 2))
    assert len(list(notes.iterdir())) == 1
    assert results(done) == results(list(InProcess().do([Task(column, p, 1) for p in dataset.pictures])))


def test_a_process_that_dies_between_two_tasks_loses_nothing(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path, 6)
    others = psutil.Process().children()
    run = in_processes([Task(column, picture, 1) for picture in dataset.pictures], 1)
    done = [next(run)]
    begun = (each for each in psutil.Process().children() if each not in others)
    (child,) = (each for each in begun if "spawn_main" in " ".join(each.cmdline()))  # not multiprocessing's own
    child.kill()
    child.wait()
    done += run
    assert [task.picture.id for task, _ in done] == [1, 2, 3, 4, 5, 6]


def test_an_image_at_which_processes_keep_dying_is_named(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path, 4, marked=2)
    notes = tmp_path / "notes"
    notes.mkdir()
    run = in_processes([Task(Deadly(column, notes, 99), picture, 1) for picture in dataset.pictures], 1)
    assert next(run)[0].picture.id == 1
    with pytest.raises(InputError, match=r"3 processes died at image 2 of column parts.*fewer --workers"):
        next(run)


def test_what_a_task_raises_comes_through(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    stale = replace(column, fingerprint="stale")
    with pytest.raises(InputError, match="holds other parts than when this began"):
        list(in_processes([Task(stale, picture, 1) for picture in dataset.pictures], 2))


@dataclass(frozen=True)
class DeadlyStore:
    """A store whose reader dies, as often as `lives` says; notes lie in the folder `notes`."""

    inner: Store
    notes: Path
    lives: int

    def read(self, column: Column, threads: int, pictures: Iterable[Picture]) -> dict[int, Found]:
        deaths = len(list(self.notes.iterdir()))
        if deaths < self.lives:
            (self.notes / str(deaths)).touch()
            os._exit(1)
        return self.inner.read(column, threads, pictures)


def judge_tasks(folder: Path, lives: int = 0) -> list[JudgeTask]:
    column, dataset = bars(folder, 4)
    columns = [column, PartsColumn.of("int8", write_parts(folder / "shorter", high=3))]
    store = MemoryStore()
    for task, found in InProcess().do([Task(each, picture, 1) for each in columns for picture in dataset.pictures]):
        store.add(task, found)
    (folder / "notes").mkdir()
    judge = Judge(dataset, dataset.pictures, None, ApProtocol())
    return [
        JudgeTask(judge, each, 1, DeadlyStore(store.only(each), folder / "notes", lives), folder / f"{each.name}.json")
        for each in columns
    ]


@contextmanager
def begun(tasks: Sequence[JudgeTask]) -> Iterator[WorkerPool]:
    """Two processes that have detected something."""
    with WorkerPool(2) as pool:
        list(pool.do([Task(each.column, picture, 1) for each in tasks for picture in each.judge.pictures]))
        yield pool


def test_processes_that_have_not_begun_judge_nothing(tmp_path: Path) -> None:
    tasks = judge_tasks(tmp_path)
    with WorkerPool(2) as pool:
        before = psutil.Process().children(recursive=True)
        assert {task.column.name for task, _ in pool.judge(tasks)} == {"parts", "int8"}
        assert psutil.Process().children(recursive=True) == before


def test_several_processes_judge_as_one_does(tmp_path: Path) -> None:
    tasks = judge_tasks(tmp_path)
    expected = {task.column.name: judged for task, judged in InProcess().judge(tasks)}
    written = {task.column.name: task.out.read_bytes() for task in tasks if task.out is not None}
    for task in tasks:
        assert task.out is not None
        task.out.unlink()
    with begun(tasks) as pool:
        assert {task.column.name: judged for task, judged in pool.judge(tasks)} == expected
    assert {task.column.name: task.out.read_bytes() for task in tasks if task.out is not None} == written
    assert expected["parts"].scores["bbox"].ap == pytest.approx(1)
    assert expected["int8"].scores["bbox"].ap == pytest.approx(0.6)


def test_a_process_that_dies_as_it_judges_loses_nothing(tmp_path: Path) -> None:
    tasks = judge_tasks(tmp_path, lives=1)
    with begun(tasks) as pool:
        assert {task.column.name for task, _ in pool.judge(tasks)} == {"parts", "int8"}
    assert len(list((tmp_path / "notes").iterdir())) >= 1


def test_a_column_at_which_processes_keep_dying_is_named(tmp_path: Path) -> None:
    tasks = judge_tasks(tmp_path, lives=99)
    with begun(tasks) as pool, pytest.raises(InputError, match="3 processes died at the AP of column parts, out of m"):
        list(pool.judge(tasks[:1]))


def test_a_disk_that_is_full_for_a_judge_comes_through(tmp_path: Path) -> None:
    tasks = judge_tasks(tmp_path)
    nowhere = replace(tasks[0], out=tmp_path / "gone" / "results.json")
    with begun(tasks) as pool, pytest.raises(FileNotFoundError) as caught:
        list(pool.judge([nowhere]))
    assert caught.value.strerror, "what measure() says of it"


def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    bars(tmp_path, 3)
    script = tmp_path / "run.py"
    script.write_text(
        f"import os, sys, time\nsys.path[:0] = [{os.fspath(Path(__file__).parent.parent)!r}]\n"
        "from pathlib import Path\nfrom bars import bars\nimport psutil\n"
        "from graphsurgery.evaluation.tasks import Task\nfrom graphsurgery.evaluation.workers import WorkerPool\n"
        "if __name__ == '__main__':\n"
        f"    column, dataset = bars(Path({os.fspath(tmp_path)!r}), 3)\n"
        "    for _ in WorkerPool(1).do([Task(column, p, 1) for p in dataset.pictures]):\n"
        "        print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)\n"
        "        time.sleep(60)\n",
        encoding="utf-8",
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, encoding="utf-8")
    try:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert children
    finally:
        parent.kill()
        parent.communicate()
    deadline = time.monotonic() + 20
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, children))


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_few_tasks_pay_for_one_process_and_many_for_no_more_than_there_are_cores() -> None:
    assert sensible_workers(0) == sensible_workers(16) == 1
    assert 1 <= sensible_workers(100_000) <= (os.cpu_count() or 1)
