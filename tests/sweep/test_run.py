"""Jobs at several threads, and on a cluster whose workers die, are slow, or come late: each is done, and once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from graphsurgery.errors import InputError, MissingTool
from graphsurgery.sweep.job import JOB_FILE, Job, read_outcome
from graphsurgery.sweep.run import BEACON, Placed, in_threads, on_cluster, what_is_wrong
from sweep.tiny import bad_job, job, network, processes


def test_a_job_that_dies_or_hangs_is_an_outcome_and_not_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    model = str(network(tmp_path))
    asked = [bad_job(tmp_path, "dies"), bad_job(tmp_path, "hangs", seconds=2.0), job("look", ("inspect", model))]
    found = {each.name: outcome.ended for each, outcome in in_threads(asked, folder, workers=2)}
    assert found == {"dies": "crashed", "hangs": "out of time", "look": "passed"}


def test_whoever_wants_no_more_ends_what_is_at_work(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    before = processes()
    running = in_threads([bad_job(tmp_path, "dies"), bad_job(tmp_path, "hangs")], folder, workers=2)
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert [path.name for path in folder.iterdir()] == ["dies"]
    assert processes() <= before


@pytest.fixture
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with distributed.LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as started:
        yield started


def test_a_cluster_of_which_one_dies_one_is_slow_and_one_comes_late_does_each_job(cluster: Any, tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / BEACON).touch()
    model = str(network(tmp_path))
    slow = bad_job(tmp_path, "slow").commands[0]
    asked = [job(f"job{number}", ("inspect", model) if number % 2 else slow) for number in range(6)]
    trouble = threading.Thread(target=_make_trouble, args=(cluster, folder))
    trouble.start()
    try:
        done = list(on_cluster(asked, folder, cluster.scheduler_address))
    finally:
        trouble.join()
    assert sorted(each.name for each, _ in done) == [f"job{number}" for number in range(6)]
    assert {outcome.ended for _, outcome in done} == {"passed"}
    assert sorted(path.parent.name for path in folder.glob(f"*/{JOB_FILE}")) == sorted(each.name for each in asked)


def _make_trouble(cluster: Any, folder: Path) -> None:
    """Kill a worker as soon as a job has begun, and begin another worker."""
    deadline = time.monotonic() + 30
    while not any(path.is_dir() for path in folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    with suppress(psutil.Error):
        psutil.Process(next(iter(cluster.workers.values())).pid).kill()
    cluster.scale(4)


def test_a_worker_without_the_folder_is_told(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder .*must lie at the same paths there"):
        list(on_cluster([job("look", ("inspect", "x"))], tmp_path, cluster.scheduler_address))


def test_a_worker_that_sees_the_folder_lacks_nothing(tmp_path: Path) -> None:
    (tmp_path / BEACON).touch()
    assert what_is_wrong([Placed(job("look"), tmp_path)]) is None


def test_a_scheduler_that_is_restarted_costs_no_job_that_was_done(tmp_path: Path) -> None:
    """The command ends with one line; typed again, it does what is left, on the cluster that is there then."""
    distributed = pytest.importorskip("distributed")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / BEACON).touch()
    model = str(network(tmp_path))
    asked = [job(f"job{number}", ("inspect", model)) for number in range(8)]
    first = distributed.LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None)
    running = on_cluster(asked, folder, first.scheduler_address)
    try:
        next(running)
    finally:
        first.close()
    with pytest.raises(MissingTool, match=r"the scheduler went away; run again, which goes on from here"):
        list(running)
    there = {each.name: (folder / each.name / JOB_FILE).stat().st_mtime_ns for each in asked if _is_done(folder, each)}
    assert 0 < len(there) < len(asked)
    left = [each for each in asked if each.name not in there]
    with distributed.LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as second:
        done = list(on_cluster(left, folder, second.scheduler_address))
    assert {outcome.ended for _, outcome in done} == {"passed"}
    assert all(_is_done(folder, each) for each in asked)
    assert all((folder / name / JOB_FILE).stat().st_mtime_ns == written for name, written in there.items())


def _is_done(folder: Path, asked: Job) -> bool:
    return read_outcome(folder, asked) is not None
