"""Where the environments of toolchains lie, and whether one is whole and of the pins that its lock files have today.

    <cache>/toolchains/NAME/                     an environment of Python
    <cache>/toolchains/NAME/graphsurgery.json    its stamp, written last: of which pins it is, and what was asked for

The cache is the folder that GRAPHSURGERY_CACHE names; else graphsurgery in %LOCALAPPDATA% on Windows, in
~/Library/Caches on macOS, in $XDG_CACHE_HOME or ~/.cache on others.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from graphsurgery import files
from graphsurgery.errors import MissingTool
from graphsurgery.toolchains.toolchain import Toolchain, find_toolchain

STAMP = "graphsurgery.json"
_LONGEST_STAMP = 1 << 16
_ASK_SECONDS = 60.0
_ASK = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"

State = Literal["installed", "missing", "broken", "of another version"]


class Stamp(BaseModel):
    """What an environment was made of: the digest of its pins, the version, Python's, and its size in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    toolchain: str
    digest: str
    version: str
    python: str
    size: int


@dataclass(frozen=True)
class Environment:
    """What there is of a toolchain: its state, why where that is no good one, and its stamp where it has one."""

    toolchain: Toolchain
    folder: Path
    state: State
    reason: str = ""
    stamp: Stamp | None = None

    @property
    def python(self) -> Path:
        """The interpreter in it."""
        return python_in(self.folder)


def cache_folder() -> Path:
    """Return the folder for what is kept between runs and can be made again."""
    named = os.environ.get("GRAPHSURGERY_CACHE")
    if named:
        return Path(named).absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "graphsurgery"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "graphsurgery"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "graphsurgery"


def place_of(toolchain: Toolchain) -> Path:
    """Return the folder of a toolchain's environment, which need not be there."""
    return cache_folder() / "toolchains" / toolchain.name


def python_in(folder: Path) -> Path:
    """Return where the interpreter of an environment is."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def look(toolchain: Toolchain) -> Environment:
    """Return what there is of a toolchain; its interpreter is started to ask for the version."""
    folder = place_of(toolchain)
    if not os.path.lexists(folder):
        return Environment(toolchain, folder, "missing")
    try:
        stamp = Stamp.model_validate_json(files.read_bytes(folder / STAMP, _LONGEST_STAMP))
    except (OSError, ValidationError):
        return Environment(toolchain, folder, "broken", f"it has no {STAMP} that can be read")
    if stamp.digest != toolchain.digest:
        seen = "other pins of the same version" if stamp.version == toolchain.version else stamp.version
        return Environment(toolchain, folder, "of another version", f"it is {seen}", stamp)
    version, fault = _ask(folder, toolchain.package)
    if version is None:
        return Environment(toolchain, folder, "broken", fault, stamp)
    if version != toolchain.version:
        return Environment(toolchain, folder, "of another version", f"{toolchain.package} is {version}", stamp)
    return Environment(toolchain, folder, "installed", stamp=stamp)


def require(name: str, place: str) -> Path:
    """Return the interpreter of a toolchain's environment; `place` says in messages what needs it.

    Raises MissingTool with the command that installs it, where it is missing, broken or of another version; InputError
    for an unknown name.
    """
    toolchain = find_toolchain(name)
    found = look(toolchain)
    if found.state == "installed":
        return found.python
    if found.state == "missing":
        raise MissingTool(f"{place} needs {toolchain}, which is not installed: {toolchain.command}")
    raise MissingTool(
        f"{place} needs {toolchain}, and {found.folder} is {found.state} ({found.reason}); "
        f"install it again: {toolchain.command}"
    )


def _ask(folder: Path, package: str) -> tuple[str | None, str]:
    """Return the version of a package in an environment, or None and why not."""
    try:
        done = subprocess.run(
            [str(python_in(folder)), "-I", "-c", _ASK, package],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASK_SECONDS,
            check=False,
        )
    except OSError as error:
        return None, f"its Python can't be started: {files.reason(error)}"
    except subprocess.TimeoutExpired:
        return None, f"its Python says nothing in {_ASK_SECONDS:g} s"
    if done.returncode:
        return None, f"{package} is not in it, or its Python is broken"
    return done.stdout.decode("utf-8", "replace").strip(), ""
