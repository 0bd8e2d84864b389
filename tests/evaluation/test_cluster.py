"""Tasks on a dask cluster: the same results, whatever dies, and one line where there is no cluster to speak of."""

from __future__ import annotations

import gc
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bars import Deadly, bars

from graphsurgery.errors import InputError, MissingTool
from graphsurgery.evaluation.cluster import OnCluster, what_is_wrong
from graphsurgery.evaluation.tasks import Task
from graphsurgery.evaluation.workers import Done, InProcess
from graphsurgery.processes import cluster

pytest.importorskip("pycocotools")


@pytest.fixture(scope="module")
def local() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as started:
        yield started


def results(done: list[Done]) -> dict[int, object]:
    assert len({task.picture.id for task, _ in done}) == len(done), "an image came twice"
    return {task.picture.id: (found.kinds, found.results) for task, found in done}


def test_a_cluster_finds_what_one_process_finds(local: Any, tmp_path: Path) -> None:
    column, dataset = bars(tmp_path, 12)
    tasks = [Task(column, picture, 1) for picture in dataset.pictures]
    assert results(list(OnCluster(local.scheduler_address).do(tasks))) == results(list(InProcess().do(tasks)))
    assert list(OnCluster(local.scheduler_address).do([])) == []


def test_a_worker_that_dies_loses_nothing(local: Any, tmp_path: Path) -> None:
    column, dataset = bars(tmp_path, 12, marked=5)
    notes = tmp_path / "notes"
    notes.mkdir()
    tasks = [Task(Deadly(column, notes), picture, 1) for picture in dataset.pictures]
    done = list(OnCluster(local.scheduler_address).do(tasks))
    assert len(list(notes.iterdir())) == 1
    assert results(done) == results(list(InProcess().do([Task(column, p, 1) for p in dataset.pictures])))


def test_an_image_at_which_workers_keep_dying_is_named(local: Any, tmp_path: Path) -> None:
    column, dataset = bars(tmp_path, 1, marked=1)
    notes = tmp_path / "notes"
    notes.mkdir()
    with pytest.raises(InputError, match=r"workers keep dying at image 1 of column parts"):
        list(OnCluster(local.scheduler_address).do([Task(Deadly(column, notes, 99), p, 1) for p in dataset.pictures]))


def test_workers_that_do_not_find_the_parts_are_told_of_before_the_work(local: Any, tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    elsewhere = replace(column, folder=tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"worker tcp://.*elsewhere.*can't be read.*must lie at the same paths there"):
        list(OnCluster(local.scheduler_address).do([Task(elsewhere, p, 1) for p in dataset.pictures]))


def test_what_a_worker_lacks_is_said(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    task = Task(column, dataset.pictures[0], 1)
    assert what_is_wrong([task]) is None
    assert "not 9.9" in str(cluster.what_is_wrong("9.9", what_is_wrong, [task]))
    assert cluster.what_is_wrong(cluster.__version__, what_is_wrong, [task]) is None
    dataset.pictures[0].path.unlink()
    assert "there is no image" in str(what_is_wrong([task]))


def test_what_a_task_raises_comes_through(local: Any, tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    dataset.pictures[2].path.write_bytes(b"another")
    with pytest.raises(InputError, match=r"3\.png: is another file than when this began"):
        list(OnCluster(local.scheduler_address).do([Task(column, p, 1) for p in dataset.pictures]))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{port}", "nonsense", "http://127.0.0.1:{port}", ""])
def test_a_scheduler_that_does_not_answer_is_a_missing_tool(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "_ANSWER", 2)
    column, dataset = bars(tmp_path, 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin = time.monotonic()
    with pytest.raises(MissingTool, match=r"--scheduler .*nobody answers.*start one: dask scheduler") as stop:
        list(OnCluster(address.format(port=port)).do([Task(column, dataset.pictures[0], 1)]))
    assert time.monotonic() - begin < 15
    assert stop.value
    assert not open_clients(distributed)


@pytest.mark.parametrize(("says", "reason"), [(b"", "no word from it in 2 s"), (b"HTTP/1.0 200 OK\r\n\r\n", "")])
def test_something_else_that_listens_is_a_missing_tool(
    tmp_path: Path, says: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "_ANSWER", 2)
    column, dataset = bars(tmp_path, 1)
    came = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            with suppress(OSError):  # the end of the test
                while True:
                    came.append(server.accept()[0])
                    came[-1].sendall(says)

        threading.Thread(target=listen, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(MissingTool, match=rf"--scheduler {address}: nobody answers \(.*{reason}"):
            list(OnCluster(address).do([Task(column, dataset.pictures[0], 1)]))
        assert time.monotonic() - begin < 10
    assert not open_clients(distributed)
    for each in came:
        each.close()


def test_a_worker_is_no_scheduler(local: Any, tmp_path: Path) -> None:
    column, dataset = bars(tmp_path, 1)
    worker = next(iter(local.workers.values())).address
    with pytest.raises(MissingTool, match=rf"--scheduler {worker}: nobody answers \(there is a (worker|nanny)\)"):
        list(OnCluster(worker).do([Task(column, dataset.pictures[0], 1)]))


def open_clients(distributed: Any) -> list[Any]:
    """Return the clients that would close later, when they are collected, maybe while dask holds its lock."""
    return [each for each in gc.get_objects() if isinstance(each, distributed.Client) and each.status != "closed"]


def test_a_scheduler_without_workers_is_a_missing_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "_WORKER", 1)
    column, dataset = bars(tmp_path, 1)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None) as empty,
        pytest.raises(MissingTool, match="it has no worker; start some: dask worker tcp://"),
    ):
        list(OnCluster(empty.scheduler_address).do([Task(column, dataset.pictures[0], 1)]))


def test_a_cluster_that_loses_all_its_workers_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "_LOOK", 1)
    monkeypatch.setattr(cluster, "_ANSWER", 2)
    monkeypatch.setattr(cluster, "_WORKER", 4)
    column, dataset = bars(tmp_path, 40)
    tasks = [Task(column, picture, 1) for picture in dataset.pictures]
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as started:
        done = OnCluster(started.scheduler_address).do(tasks)
        next(done)
        started.scale(0)
        with pytest.raises(MissingTool, match="all its workers are gone; start some and run again"):
            list(done)


def test_a_missing_distributed_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    column, dataset = bars(tmp_path, 1)
    with pytest.raises(MissingTool, match=r"pip install 'graphsurgery\[dask\]'"):
        list(OnCluster("tcp://127.0.0.1:1").do([Task(column, dataset.pictures[0], 1)]))


def test_a_scheduler_that_goes_away_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "_LOOK", 1)
    column, dataset = bars(tmp_path, 40)
    started = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)
    try:
        done = OnCluster(started.scheduler_address).do([Task(column, picture, 1) for picture in dataset.pictures])
        next(done)
    finally:
        started.close()
    with pytest.raises(MissingTool, match="the scheduler went away; run again, which goes on from here"):
        list(done)
