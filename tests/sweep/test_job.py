"""A job: however it ends, it ends in an outcome, leaves a whole folder or none, and takes its processes with it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import psutil
import pytest

from graphsurgery.errors import InputError
from graphsurgery.sweep import job as jobs
from graphsurgery.sweep.job import Stopped, read_outcome, run_job
from sweep.tiny import bad_job, job, network, processes


def test_a_job_that_passes_leaves_what_it_printed(tmp_path: Path) -> None:
    model = str(network(tmp_path))
    asked = job("look", ("inspect", model), ("inspect", model))
    outcome = run_job(asked, tmp_path / "jobs" if (tmp_path / "jobs").mkdir() is None else tmp_path)
    assert (outcome.ended, outcome.code, outcome.error) == ("passed", 0, None)
    log = (tmp_path / "jobs" / "look" / jobs.LOG).read_text(encoding="utf-8")
    assert log.count("$ python -m graphsurgery inspect") == 2
    assert "Conv" in log
    assert read_outcome(tmp_path / "jobs", asked) == outcome


def test_the_first_command_that_fails_is_the_last(tmp_path: Path) -> None:
    outcome = run_job(job("wrong", ("inspect", "nothing.onnx"), ("inspect", "no")), tmp_path)
    assert (outcome.ended, outcome.code) == ("refused", 2)
    assert "nothing.onnx" in str(outcome.error)
    assert (tmp_path / "wrong" / jobs.LOG).read_text(encoding="utf-8").count("$ python") == 1


def test_a_job_that_dies_says_so(tmp_path: Path) -> None:
    outcome = run_job(bad_job(tmp_path, "dies"), tmp_path)
    assert (outcome.ended, outcome.code) == ("crashed", 7)
    assert str(outcome.error).startswith("exit code 0x7")


def test_a_job_that_hangs_is_stopped(tmp_path: Path) -> None:
    before = processes()
    outcome = run_job(bad_job(tmp_path, "hangs", seconds=2.0), tmp_path)
    assert (outcome.ended, outcome.code, outcome.error) == ("out of time", None, "stopped after 2 s, its limit")
    assert processes() <= before


def test_a_job_that_takes_more_memory_than_it_may_is_stopped(tmp_path: Path) -> None:
    outcome = run_job(bad_job(tmp_path, "eats", memory_mb=500), tmp_path)
    assert (outcome.ended, outcome.error) == ("out of memory", "stopped above 500 MB, its limit")
    assert outcome.peak_mb > 500


def test_a_job_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    stop, folder, before = threading.Event(), tmp_path / "jobs", processes()
    folder.mkdir()
    threading.Timer(1.0, stop.set).start()
    with pytest.raises(Stopped):
        run_job(bad_job(tmp_path, "hangs"), folder, stop)
    assert not list(folder.iterdir())
    assert processes() <= before


def test_a_later_result_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    asked = job("look", ("inspect", str(network(tmp_path))))
    (tmp_path / "look").mkdir()
    (tmp_path / "look" / "old.txt").write_text("old", encoding="utf-8")
    run_job(asked, tmp_path)
    assert sorted(path.name for path in (tmp_path / "look").iterdir()) == [jobs.JOB_FILE, jobs.LOG]


def test_an_outcome_of_something_else_is_none(tmp_path: Path) -> None:
    asked = job("wrong", ("inspect", "nothing.onnx"))
    run_job(asked, tmp_path)
    place = tmp_path / "wrong" / jobs.JOB_FILE
    content = json.loads(place.read_text(encoding="utf-8"))
    for other in (json.dumps({**content, "key": "other"}), json.dumps({**content, "ended": "well"}), "{", "[1]"):
        place.write_text(other, encoding="utf-8")
        assert read_outcome(tmp_path, asked) is None
    assert read_outcome(tmp_path / "nowhere", asked) is None


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file", encoding="utf-8")
    with pytest.raises(InputError, match="can't be written"):
        run_job(job("look", ("inspect", "x.onnx")), tmp_path / "jobs")


def test_a_job_ends_with_the_process_that_began_it(tmp_path: Path) -> None:
    import subprocess
    import sys

    plugin = tmp_path / "hangs.py"
    plugin.write_text(f"import time, pathlib\npathlib.Path({str(tmp_path / 'up')!r}).touch()\ntime.sleep(600)\n")
    code = (
        "import sys; from pathlib import Path; from graphsurgery.sweep.job import *\n"
        f"run_job(Job('x', 'x', None, None, (('passes', '--plugin', {str(plugin)!r}),), 'k', Limits(600, 4000)),"
        f" Path({str(tmp_path)!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "up").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (child,) = psutil.Process(parent.pid).children()
    finally:
        parent.kill()
        parent.wait()
    child.wait(timeout=20)
