"""One job of a sweep: commands of graphsurgery in processes of their own, in a folder of its own, within limits.

    FOLDER/NAME/log.txt       what the commands printed
    FOLDER/NAME/job.json      how it ended
    FOLDER/NAME/parts         what `apply` wrote
    FOLDER/NAME/support.json  what a target takes of another job's parts

The folder is worked on under a temporary name and renamed at the end. So a job that was interrupted, with its machine
or alone, leaves nothing; and where a cluster gives a job to two workers, one of the two results stays, whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import TypeAdapter, ValidationError

from graphsurgery import files
from graphsurgery.errors import InputError
from graphsurgery.files.door import read_json
from graphsurgery.files.temporary import reserved

JOB_FILE, LOG, PARTS, SUPPORT = "job.json", "log.txt", "parts", "support.json"

Ended = Literal["passed", "failed", "refused", "missing tool", "crashed", "out of time", "out of memory"]

# exit codes of a command, as cli.exits has them
_BY_CODE: dict[int, Ended] = {0: "passed", 1: "failed", 2: "refused", 3: "missing tool"}
_LOOK = 0.1  # seconds between looks at a process
_MB = 1_000_000
_LONGEST_ERROR, _MOST_BYTES = 400, 4 * files.MB


@dataclass(frozen=True)
class Limits:
    """What a job may take: seconds, and 10^6 bytes of memory, its processes together."""

    seconds: float
    memory_mb: int


@dataclass(frozen=True)
class Job:
    """What is run: `commands` one after another, as the command line has them, in the job's folder.

    `subject`, `target` and `variant` are for the table; `key` says what the result depends on. `parts_of` is the job
    whose parts it looks at, which is done before.
    """

    name: str
    subject: str
    target: str | None
    variant: str | None
    commands: tuple[tuple[str, ...], ...]
    key: str
    limits: Limits
    parts_of: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a job ended: the last command's exit code, None where it was ended; the error that it printed last.

    `peak_mb` is the most memory that its processes had together, in 10^6 bytes, as far as was seen.
    """

    key: str
    ended: Ended
    code: int | None
    error: str | None
    seconds: float
    peak_mb: float


_STORED = TypeAdapter(Outcome)


class Stopped(Exception):
    """The sweep was interrupted while a job was at work."""


def read_outcome(folder: Path, job: Job) -> Outcome | None:
    """Return how a job ended, None where it is still to do, or was done of something else."""
    place = folder / job.name / JOB_FILE
    try:
        outcome = _STORED.validate_python(read_json(place, _MOST_BYTES))
    except (OSError, ValueError, ValidationError):
        return None
    return outcome if outcome.key == job.key else None


def run_job(job: Job, folder: Path, stop: threading.Event | None = None) -> Outcome:
    """Run a job and keep what it leaves in `folder`; whatever it does, it ends in an outcome.

    Raises Stopped when `stop` is set meanwhile, InputError where the folder can't be written.
    """
    with _work_of(job, folder) as work:
        outcome = _run(job, work, stop or threading.Event())
        _write(outcome, work)
    return outcome


def skip_job(job: Job, before: Outcome, folder: Path) -> Outcome:
    """Keep that a job wasn't run, as the one whose parts it looks at ended badly. Raises InputError as `run_job`."""
    outcome = replace(before, key=job.key, seconds=0.0, peak_mb=0.0)
    with _work_of(job, folder) as work:
        (work / LOG).write_text(f"not run: {job.parts_of} ended so: {before.ended}; see its log\n", encoding="utf-8")
        _write(outcome, work)
    return outcome


@contextlib.contextmanager
def _work_of(job: Job, folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of a job's at the end. Raises InputError where it can't be written."""
    try:
        with reserved(folder) as work:
            work.mkdir()
            yield work
            _put(work, folder / job.name)
    except OSError as error:
        raise InputError(f"{folder}: can't be written ({error.strerror or error}); make room, or give --out") from error


def _write(outcome: Outcome, work: Path) -> None:
    (work / JOB_FILE).write_text(json.dumps(asdict(outcome), indent=1) + "\n", encoding="utf-8")


def _put(work: Path, place: Path) -> None:
    """Let `work` take the place of what an earlier run left there."""
    for _ in range(3):  # another worker may have put its own there just now
        with reserved(place.parent) as old:
            with contextlib.suppress(FileNotFoundError):
                place.rename(old)
            try:
                work.rename(place)
                return
            except OSError:
                if not place.exists():
                    raise
    raise OSError(f"{place.name} is being written by others")


def _run(job: Job, work: Path, stop: threading.Event) -> Outcome:
    began, peak = time.monotonic(), 0.0
    ended: Ended = "passed"
    code: int | None = None
    with (work / LOG).open("wb") as log:
        for command in job.commands:
            log.write(f"$ python -m graphsurgery {' '.join(command)}\n".encode())
            log.flush()
            with _started(command, work, log) as process:
                for used in _watched(process):
                    peak = max(peak, used)
                    if stop.is_set():
                        raise Stopped
                    if used > job.limits.memory_mb:
                        ended = "out of memory"
                    elif time.monotonic() - began > job.limits.seconds:
                        ended = "out of time"
                    if ended != "passed":
                        break
                else:
                    code = process.returncode
                    ended = _BY_CODE.get(code, "crashed")
            if ended != "passed":
                break
    error = _error(work / LOG, job, ended, code)
    return Outcome(job.key, ended, code, error, round(time.monotonic() - began, 3), round(peak, 1))


@contextlib.contextmanager
def _started(command: tuple[str, ...], work: Path, log: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, which ends with this process, and at the end of this, whatever it started with it."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "graphsurgery.sweep.job_process", *command],
        cwd=work,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            "NO_COLOR": "1",
            "COLUMNS": "120",
        },
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            _end(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def _watched(process: subprocess.Popen[bytes]) -> Iterator[float]:
    """Yield, until the process ends, how many MB it and those that it started have."""
    while True:
        try:
            process.wait(_LOOK)
            return
        except subprocess.TimeoutExpired:
            yield sum(_resident(each) for each in _family(process)) / _MB


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:  # it has just ended
        return []


def _resident(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss)
    except psutil.Error:
        return 0.0


def _end(process: subprocess.Popen[bytes]) -> None:
    for each in _family(process):
        with contextlib.suppress(psutil.Error):
            each.kill()


def _error(log: Path, job: Job, ended: Ended, code: int | None) -> str | None:
    """Return what a job that didn't pass says of it: the first error that it printed, or what became of it."""
    if ended == "passed":
        return None
    if ended == "out of time":
        return f"stopped after {job.limits.seconds:g} s, its limit"
    if ended == "out of memory":
        return f"stopped above {job.limits.memory_mb} MB, its limit"
    with log.open(encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    said = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[-1])
    if ended == "crashed":
        assert code is not None
        said = f"{_death(code)}: {said}"
    return said[:_LONGEST_ERROR]


def _death(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code:#x}"
    except ValueError:
        return f"exit code {code}"


def remove(folder: Path, job: Job) -> None:
    """Forget how a job ended."""
    shutil.rmtree(folder / job.name, ignore_errors=True)
