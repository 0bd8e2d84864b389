"""Makes the environment of a toolchain, by uv where that is, else by venv and pip. The only place that downloads it.

It is made under a temporary name beside the one that it gets at the end, when all imports were tried: a half-made one
is never taken for one. What is in it must be started as `python -m`: scripts that pip writes know their first name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphsurgery import files
from graphsurgery.errors import InputError, MissingTool
from graphsurgery.files.locks import Lock
from graphsurgery.files.temporary import reserved
from graphsurgery.processes.ending import run_to_end
from graphsurgery.progress import Silent, Watcher
from graphsurgery.text import shortened, visible
from graphsurgery.toolchains.environment import STAMP, Environment, Stamp, look, place_of, python_in
from graphsurgery.toolchains.toolchain import Toolchain, here

_SECONDS = 7200.0
_ASK_SECONDS = 60.0
_VERSION = "import platform; print(platform.python_version())"


def install(toolchain: Toolchain, *, python: str | None = None, watcher: Watcher | None = None) -> Environment:
    """Make the environment of a toolchain, in the place of one that is there; `python` is what it is made with.

    What the tools print is kept beside it, in NAME.log. Raises MissingTool where there is no such toolchain for this
    platform, or no Python that it has packages for; InputError where the packages can't be had, or where another
    process is at it.
    """
    watcher = watcher or Silent()
    if here() not in toolchain.platforms:
        there = ", ".join(toolchain.platforms)
        raise MissingTool(f"toolchain '{toolchain.name}': {toolchain} is for {there}, and this is {here()}")
    base, version = _base(toolchain, python)
    place = place_of(toolchain)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = Lock.take(place.with_name(f"{place.name}.lock"))
        if lock is None:
            raise InputError(f"{place}: another process is installing it; wait for it")
        try:
            log = place.with_name(f"{place.name}.log")
            with reserved(place.parent) as made, log.open("wb") as output:
                _fill(_Making(toolchain, made, output.fileno(), log), base, watcher)
                stamp = Stamp(
                    toolchain=toolchain.name,
                    digest=toolchain.digest,
                    version=toolchain.version,
                    python=version,
                    size=sum(path.lstat().st_size for path in made.rglob("*")),
                )
                (made / STAMP).write_text(stamp.model_dump_json(indent=1) + "\n", encoding="utf-8")
                _put(made, place)
        finally:
            lock.release()
    except OSError as error:
        raise InputError(f"{place}: can't be written ({files.reason(error)})") from error
    return look(toolchain)


@dataclass(frozen=True)
class _Making:
    """An environment that is being made in `folder`; what is printed goes to the file `log`."""

    toolchain: Toolchain
    folder: Path
    output: int
    log: Path

    def run(self, command: Sequence[str], what: str) -> None:
        """Run one command of it. Raises InputError where it fails; `what` says what it does."""
        with os.fdopen(os.dup(self.output), "wb") as output:
            code = run_to_end(command, _SECONDS, output, self.folder.parent)
        if code == 0:
            return
        name = f"toolchain '{self.toolchain.name}'"
        if code is None:
            raise InputError(f"{name}: {what} takes longer than {_SECONDS:g} s; see {self.log}")
        raise InputError(f"{name}: {what} fails: {_fault(self.log)}; see {self.log}")


def _fill(making: _Making, base: str, watcher: Watcher) -> None:
    toolchain, python = making.toolchain, str(python_in(making.folder))
    uv = shutil.which("uv")
    watcher.begin(f"{toolchain.name}: environment")
    if uv is not None:
        making.run([uv, "venv", "--quiet", "--python", base, str(making.folder)], "uv venv")
    else:
        making.run([base, "-I", "-m", "venv", str(making.folder)], "python -m venv")
    for lock in toolchain.locks:
        watcher.begin(f"{toolchain.name}: {lock.stem}")
        if uv is not None:
            making.run([uv, "pip", "install", "--no-deps", "--python", python, "-r", str(lock)], "uv pip install")
        else:
            pip = [python, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--no-deps"]
            making.run([*pip, "-r", str(lock)], "pip install")
    if toolchain.imports:
        watcher.begin(f"{toolchain.name}: import")
        making.run([python, "-I", "-c", f"import {', '.join(toolchain.imports)}"], "an import of what was installed")


def _base(toolchain: Toolchain, asked: str | None) -> tuple[str, str]:
    """Return a Python that the toolchain has packages for, and its version."""
    wanted = toolchain.pythons
    if asked is not None:
        version = _version(asked)
        if version is None:
            raise InputError(f"--python {asked}: is no Python that can be started")
        if _minor(version) not in wanted:
            raise MissingTool(f"--python {asked}: is {version}; {toolchain} has packages for {', '.join(wanted)}")
        return asked, version
    if f"{sys.version_info.major}.{sys.version_info.minor}" in wanted:
        return sys.executable, _version(sys.executable) or wanted[0]
    for minor in wanted:
        found = shutil.which(f"python{minor}")
        version = found and _version(found)
        if found and version and _minor(version) == minor:
            return found, version
    if shutil.which("uv"):  # which fetches one
        return wanted[0], wanted[0]
    raise MissingTool(
        f"toolchain '{toolchain.name}': {toolchain} has packages for Python {', '.join(wanted)}, and none is found; "
        "name one with --python, or install uv, which fetches one"
    )


def _version(python: str) -> str | None:
    try:
        done = subprocess.run([python, "-I", "-c", _VERSION], capture_output=True, timeout=_ASK_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.decode("utf-8", "replace").strip()


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _put(made: Path, place: Path) -> None:
    """Put an environment in its place, and away what was there."""
    if os.path.lexists(place):
        with reserved(place.parent) as old:
            place.rename(old)
            made.rename(place)
    else:
        made.rename(place)


def _fault(log: Path) -> str:
    """Return what was at fault by the last lines of a log: the last that speaks of an error, else the last."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("WARNING:", "[notice]"))]
    errors = [line for line in lines if "error" in line.lower()]
    return shortened(visible((errors or lines or ["it says nothing"])[-1]), 200)
