"""Tries broken files in a process of its own, within limits: what `fuzz_files.py` and `fuzz_onnx.py` share.

A case is at fault when it raises anything but a GraphSurgeryError, takes too long or too much memory, ends the process,
or changes a file. The process goes on to the next case as long as it can; where it can't, a new one begins behind it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from graphsurgery.errors import GraphSurgeryError

try:
    import resource
except ImportError:  # Windows
    resource = None

STATUS = os.open("/proc/self/status", os.O_RDONLY) if sys.platform == "linux" else None
Step = tuple[str, Callable[[], object]]


@dataclass(frozen=True)
class Limits:
    """What a case may take: seconds for one step, MB in all. `addresses` are bytes that its process can ask for."""

    seconds: float = 10.0
    megabytes: float = 500.0
    addresses: int | None = None


@dataclass(frozen=True)
class Trial:
    """The file that is broken, its content by seed, and what is then done with it, the first step being to open it.

    What a step raises of graphsurgery's own ends that step; of the first one, the case.
    """

    target: Path
    content: Callable[[int], bytes]
    steps: Callable[[int], Iterable[Step]]


@dataclass
class Tally:
    """What came of the cases: how many ended each step well, and the faults of each kind, by seed."""

    cases: int = 0
    well: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    faults: dict[str, list[int]] = field(default_factory=dict)
    stories: dict[str, str] = field(default_factory=dict)

    def add(self, seed: int, kind: str, story: str = "") -> None:
        """Note a fault; the story of the first one of its kind is kept."""
        self.faults.setdefault(kind, []).append(seed)
        self.stories.setdefault(kind, story or kind)


def explore(
    opened: Callable[[Path], Trial],
    counted: Sequence[str],
    first: int,
    cases: int,
    seconds: float,
    limits: Limits = Limits(),
) -> Tally:
    """Try cases from seed `first` on, until there were `cases` or the time is up.

    `opened` makes the trial in a new folder, in the other process; `counted` are the steps to count.
    """
    context, tally, begin = multiprocessing.get_context("spawn"), Tally(), time.monotonic()
    seed, last, until = first, first + cases, begin + seconds
    while seed < last and time.monotonic() < until:
        at, stage = context.RawArray("d", [-1, 0]), context.RawArray("c", 80)  # the case, when its step began, and that
        well = context.RawArray("q", len(counted))
        reader, writer = context.Pipe(duplex=False)
        told = (writer, at, stage, well)
        worker = context.Process(target=_work, args=(opened, tuple(counted), seed, last, until, limits, told))
        worker.start()
        writer.close()
        begun, seed = seed, -1
        while seed < 0:
            where, since = int(at[0]), at[1]
            stuck = since > 0 and time.monotonic() - since > limits.seconds and int(at[0]) == where
            try:
                if stuck:
                    worker.kill()
                    tally.add(where, f"{stage.value.decode()} takes over {limits.seconds:g} s")
                    seed = where + 1
                elif reader.poll(0.05):
                    found = reader.recv()
                    if isinstance(found, int):
                        seed = found
                    elif isinstance(found, str):
                        raise SystemExit(f"the right files could not be made: {found}")
                    else:
                        tally.add(*found)
            except EOFError:
                worker.join()
                where = int(at[0])
                if where < 0:
                    raise SystemExit(f"the right files could not be made ({worker.exitcode})") from None
                tally.add(where, f"{stage.value.decode()} ends the process ({worker.exitcode})")
                seed = where + 1
        worker.join()
        tally.cases += seed - begun
        tally.well.update(dict(zip(counted, well, strict=True)))
    tally.seconds = time.monotonic() - begin
    return tally


def _work(
    opened: Callable[[Path], Trial],
    counted: Sequence[str],
    first: int,
    last: int,
    until: float,
    limits: Limits,
    told: tuple[Connection, Any, Any, Any],
) -> None:
    """Try cases in this process. What they print is nobody's."""
    writer, at, stage, ended_well = told
    warnings.simplefilter("ignore")
    logging.disable()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    if limits.addresses is not None and resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (limits.addresses, limits.addresses))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def begins(name: str) -> None:
        stage.value = name.encode()[:79]
        at[1] = time.monotonic()

    home, seed = Path.cwd(), first
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        folder = Path(place, "folder")
        folder.mkdir()
        try:
            trial = opened(folder)
        except Exception:
            writer.send(traceback.format_exc())
            raise
        before, start = snapshot(place, trial.target), peak()
        grown = start
        # a peak hides what the cases behind it take: one that is too high is left to a new process
        while seed < last and time.monotonic() < until and grown - start < limits.megabytes / 2:
            trial.target.unlink(missing_ok=True)  # to write over a file takes a hundred times as long on some disks
            trial.target.write_bytes(trial.content(seed))
            at[0] = seed
            well, *fault = attempt(trial.steps(seed), begins)
            at[1] = 0
            for name in well:
                if name in counted:
                    ended_well[counted.index(name)] += 1
            if fault:
                writer.send((seed, *fault))
            if (now := peak()) != grown:
                if now - grown > limits.megabytes:
                    writer.send((seed, "takes too much memory", f"takes {now - grown:.0f} MB"))
                grown = now
            if (after := snapshot(place, trial.target)) != before:
                changed = sorted({path for path, _ in after.items() ^ before.items()})
                writer.send((seed, "changes files", f"changes {changed}"))
                before = after
            seed += 1
        os.chdir(home)
    writer.send(seed)


def attempt(steps: Iterable[Step], begins: Callable[[str], None] = lambda name: None) -> tuple[Any, ...]:
    """Go through the steps of a case; return those that ended well and, if it is at fault, the kind and the story."""
    well: list[str] = []
    try:
        for number, (name, step) in enumerate(steps):
            begins(name)
            try:
                step()
                well.append(name)
            except GraphSurgeryError:
                if number == 0:
                    break
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = next((each for each in reversed(frames) if "graphsurgery" in each.filename), frames[-1])
        kind = f"{Path(place.filename).name}:{place.lineno} {type(error).__name__}"
        return well, kind, f"{name}: {traceback.format_exc()}"
    return (well,)


def snapshot(place: str | Path, target: Path) -> dict[str, tuple[int, int]]:
    """Return the size and the time of each file in a folder, but for the one that is broken on purpose."""
    return dict(_stats(str(place), str(target)))


def _stats(folder: str, target: str) -> Iterator[tuple[str, tuple[int, int]]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _stats(entry.path, target)
            elif entry.path != target:
                found = entry.stat(follow_symlinks=False)
                yield entry.path, (found.st_size, found.st_mtime_ns)


def peak() -> float:
    """Return the most memory, in MB, that this process has had at a time; on macOS what it has now."""
    if STATUS is not None:  # what `resource` tells begins with that of the process that started this one
        status = os.pread(STATUS, 4096, 0)
        begin = status.index(b"VmHWM:") + len(b"VmHWM:")
        return int(status[begin : status.index(b"kB", begin)]) / 2**10
    found = psutil.Process().memory_info()
    return getattr(found, "peak_wset", found.rss) / 2**20
