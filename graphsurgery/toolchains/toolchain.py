"""A toolchain as data: NAME.yaml, and beside it the lock files that it names, each a line PACKAGE==VERSION per package.

    title: Rockchip RKNN-Toolkit2
    package: rknn-toolkit2                  # its version is the toolchain's
    locks: [torch-cpu.lock, rknn.lock]      # installed one after another, nothing beyond them
    imports: [rknn.api]                     # what must be importable afterwards
    pythons: ["3.11"]                       # that all pins have wheels for, the best first
    platforms: [linux-x86_64]
    licence: whose terms one agrees to by installing

Those of this package are found by themselves, and so are the folders that other packages name by the entry point
`graphsurgery.toolchains`.
"""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from graphsurgery import files
from graphsurgery.errors import InputError, name_nearest
from graphsurgery.plugins import entry_points_of
from graphsurgery.strict_yaml.positions import Fields, Place, read_yaml
from graphsurgery.strict_yaml.validate import check_keys, validate

ENTRY_POINT_GROUP = "graphsurgery.toolchains"
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_PIN = re.compile(r"(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.+!_-]+)")
_OPTION = re.compile(r"--extra-index-url https://\S+")
_Plain = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    title: str = Field(min_length=1)
    package: _Plain
    locks: Annotated[tuple[_Plain, ...], Field(min_length=1)]
    imports: tuple[_Plain, ...] = ()
    pythons: Annotated[tuple[Annotated[str, Field(pattern=r"^3\.\d+$")], ...], Field(min_length=1)]
    platforms: Annotated[tuple[_Plain, ...], Field(min_length=1)]
    licence: str = Field(min_length=1)


@dataclass(frozen=True)
class Toolchain:
    """A vendor's tools, as exact pins. `locks` are the files of these, `pins` their versions by package."""

    name: str
    title: str
    package: str
    locks: tuple[Path, ...]
    pins: dict[str, str]
    imports: tuple[str, ...]
    pythons: tuple[str, ...]
    platforms: tuple[str, ...]
    licence: str

    @property
    def version(self) -> str:
        """The version of the package that gives the toolchain its own."""
        return self.pins[self.package]

    @property
    def digest(self) -> str:
        """What tells these pins from others: SHA-256 of them."""
        pinned = "\n".join(f"{package}=={version}" for package, version in sorted(self.pins.items()))
        return hashlib.sha256(pinned.encode()).hexdigest()

    @property
    def command(self) -> str:
        """The command that installs it."""
        return f"python -m graphsurgery toolchain install {self.name}"

    def __str__(self) -> str:
        return f"{self.title} {self.version}"


def here() -> str:
    """Return this platform, as toolchains name it: linux-x86_64, windows-x86_64, macos-arm64."""
    system = {"win32": "windows", "darwin": "macos"}.get(sys.platform, sys.platform)
    machine = platform.machine().lower()
    return f"{system}-{'x86_64' if machine == 'amd64' else machine}"


def names() -> list[str]:
    """Return the names of all toolchains. Raises InputError where an entry point of another package fails."""
    return sorted(_files())


def find_toolchain(name: str) -> Toolchain:
    """Return a toolchain by its name.

    Raises InputError for an unknown name, RecipeError, which begins with file and line, for a mistake in its file.
    """
    found = _files()
    if name not in found:
        there = sorted(found)
        raise InputError(f"unknown toolchain '{name}'; there are {', '.join(there)}.{name_nearest(name, there)}")
    return load_toolchain(found[name])


def load_toolchain(path: Path) -> Toolchain:
    """Read NAME.yaml and its lock files. Raises RecipeError, which begins with file and line."""
    start = Place(path.name, 1, path.parent)
    tree = read_yaml(path, path.name)
    if not isinstance(tree, Fields):
        raise start.error("a toolchain is a mapping with title, package, locks, pythons, platforms and licence")
    check_keys(tree, list(_Written.model_fields), "")
    written: _Written = validate(_Written, tree, "the toolchain", start)
    locks = tuple(path.parent / lock for lock in written.locks)
    pins: dict[str, str] = {}
    for lock in locks:
        pins |= _pins(lock)
    if written.package not in pins:
        raise start.error(f"package '{written.package}' stands in none of its lock files")
    values: dict[str, Any] = {**dict(written), "locks": locks}
    return Toolchain(name=path.stem, pins=pins, **values)


def _pins(lock: Path) -> dict[str, str]:
    """Return the packages of a lock file with their versions."""
    pins: dict[str, str] = {}
    try:
        text = files.read_bytes(lock, files.MB).decode()
    except (OSError, ValueError) as error:
        raise InputError(f"{lock}: can't be read ({files.reason(error)})") from error
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.partition(" #")[0].strip()
        if not line or line.startswith("#") or _OPTION.fullmatch(line):
            continue
        pin = _PIN.fullmatch(line)
        place = Place(lock.name, number, lock.parent)
        if pin is None:
            raise place.error(f"should be PACKAGE==VERSION, got '{line[:80]}'")
        if pin["package"] in pins:
            raise place.error(f"'{pin['package']}' is pinned above already")
        pins[pin["package"]] = pin["version"]
    return pins


def _files() -> dict[str, Path]:
    """Return the file of each toolchain by its name."""
    found = {path.stem: path for path in _in_folder(Path(str(resources.files("graphsurgery.toolchains"))))}
    for value in entry_points_of(ENTRY_POINT_GROUP):
        folder = Path(str(value)) if isinstance(value, str | Path) else None
        if folder is None or not folder.is_dir():
            raise InputError(f"entry point of {ENTRY_POINT_GROUP}: {value!r} is no folder of .yaml files")
        for path in _in_folder(folder):
            other = found.setdefault(path.stem, path)
            if other != path:
                raise InputError(f"{path}: toolchain '{path.stem}' is also in {other}; rename one")
    return found


def _in_folder(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob("*.yaml")):
        if not _NAME.fullmatch(path.stem):
            raise InputError(f"{path}: a toolchain needs a name in lower case")
        yield path
