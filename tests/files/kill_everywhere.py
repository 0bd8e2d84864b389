"""An engine that kills a command at every event in the file system, in turn, and looks at what is left.

All commands run in forks of one process that has imported everything and has started no thread, which saves the second
that each would take to start, and has done what every command begins with.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_CHANGES: Final = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink")
Action = Callable[[], object]


def die_at(root: Path, number: int | None) -> Callable[[], int]:
    """Have this process killed just before change `number` below `root`; return how to ask for the count so far."""
    count = 0

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            if isinstance(arguments[0], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in _CHANGES:
            return
        place = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
        if place.startswith("/") and not place.startswith(str(root)):
            return
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    sys.addaudithook(listen)
    return lambda: count


def forked(root: Path, action: Action, kill_at: int | None = None) -> tuple[int, int]:
    """Run `action` in a child, in `root`; return its exit code, -9 if it was killed, and the changes that it made."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.chdir(root)
            with (root.parent / "log.txt").open("w", encoding="utf-8") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            changes = die_at(root, kill_at)
            try:
                action()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
            atexit._run_exitfuncs()  # os._exit doesn't, and the processes of tools end by them
            os.write(writer, str(changes()).encode())
            (root.parent / "modules.txt").write_text(" ".join(sys.modules), encoding="utf-8")
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    counted = os.read(reader, 20)
    os.close(reader)
    return os.waitstatus_to_exitcode(status), int(counted or 0)


@dataclass(frozen=True)
class Scenario:
    """`prepare` is done once, in a folder; then `run` is killed in copies of it.

    `state` says what of the outputs is there, of which run. After a kill comes `look`, which changes nothing, or `run`
    once more. `kept` are files that an interrupted run may leave, to go on from there.
    """

    prepare: Sequence[Action]
    run: Action
    look: Action
    state: Callable[[Path], object]
    kept: str = r"(?!)"
    codes: Sequence[int] = (0,)  # of the run, when it was done already


def import_all(listed: Path) -> None:
    """Import what a child had to import, so that the next one need not."""
    for name in listed.read_text(encoding="utf-8").split():
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def begin_all() -> None:
    """Do once what is the same for each command: it reads what is installed, makes itself of all signatures, and
    compiles the report's template."""
    import typer.main

    from graphsurgery import plugins
    from graphsurgery.cli import app
    from graphsurgery.report import environment, html
    from graphsurgery.rewrite.registry import discover

    plugins.entry_points = functools.cache(plugins.entry_points)
    typer.main.get_command = functools.cache(typer.main.get_command)
    typer.main.get_command(app)
    environment.describe()
    html._template()
    discover()
    for group in ("custom_ops", "compilers", "targets"):
        plugins.entry_points(group=f"graphsurgery.{group}")
    gc.freeze()  # else the first collection of each fork touches, and so copies, all there is


def names(root: Path, kept: str) -> list[str]:
    """Return all that is below `root`, but for what may be kept."""
    found = (path.relative_to(root).as_posix() for path in root.rglob("*"))
    return sorted(name for name in found if not re.fullmatch(kept, name))


def kill_everywhere(scenario: Scenario, work: Path, full: bool) -> tuple[int, list[str]]:
    """Return how many points there are, and what was wrong.

    Behind each point comes `look` or `run`, in turn, or first one and then, from the same point on, the other.
    """
    template, root = work / "template", work / "root"
    template.mkdir(parents=True)
    (template / "tmp").mkdir()
    (root / "tmp").mkdir(parents=True)  # the environment names it: a tool's process that is begun now has files there
    for action in (*scenario.prepare, scenario.look):
        assert forked(template, action)[0] == 0, (work / "log.txt").read_text(encoding="utf-8")
        import_all(work / "modules.txt")

    def fresh() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root)

    fresh()
    old = (scenario.state(root), names(root, scenario.kept))
    code, points = forked(root, scenario.run)
    assert code == 0, (work / "log.txt").read_text(encoding="utf-8")
    import_all(work / "modules.txt")
    new = (scenario.state(root), names(root, scenario.kept))
    assert old[0] != new[0], "the run changes nothing"
    begin_all()
    wrong = []
    tried = ((scenario.look, (old, new)), (scenario.run, (new,)))
    for point in range(points):
        for then, allowed in tried if full else (tried[point % 2],):
            fresh()
            killed, _ = forked(root, scenario.run, point)
            code, _ = forked(root, then)
            if killed != -signal.SIGKILL or code not in (scenario.codes if then is scenario.run else (0,)):
                log = (work / "log.txt").read_text(encoding="utf-8").strip()
                wrong.append(f"point {point}: killed {killed}, then {code}: {log[-300:]}")
            elif (seen := (scenario.state(root), names(root, scenario.kept))) not in allowed:
                wrong.append(f"point {point}: {seen}")
    return points, wrong
