"""Where targets lie: in this package, in folders that entry points of other packages name, or in one's own file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from graphsurgery.errors import InputError, name_nearest
from graphsurgery.plugins import entry_points_of

USUAL = "generic-cnn"  # what is said of accelerators where no one is named
ENTRY_POINT_GROUP = "graphsurgery.targets"
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_SUFFIXES = (".yaml", ".yml")


def names() -> list[str]:
    """Return the names of all targets. Raises InputError where an entry point of another package fails."""
    return sorted(_files())


def find_target(name_or_file: str, beside: Path | None = None) -> tuple[str, Path, str]:
    """Return the name of a target, its file, and that as messages show it; a path is relative to the folder `beside`.

    Raises InputError for an unknown name.
    """
    if name_or_file.lower().endswith(_SUFFIXES):
        path = Path(name_or_file) if beside is None else beside / name_or_file
        return path.stem, path, name_or_file
    files = _files()
    if name_or_file not in files:
        nearest = name_nearest(name_or_file, sorted(files)) or f" There are {', '.join(sorted(files))}"
        raise InputError(f"unknown target '{name_or_file}'; a file of your own ends in .yaml.{nearest}")
    return name_or_file, files[name_or_file], files[name_or_file].name


def _files() -> dict[str, Path]:
    """Return the file of each target by its name."""
    found = {path.stem: path for path in _in_folder(Path(str(resources.files("graphsurgery.targets"))))}
    for value in entry_points_of(ENTRY_POINT_GROUP):
        folder = Path(str(value)) if isinstance(value, str | Path) else None
        if folder is None or not folder.is_dir():
            raise InputError(f"entry point of {ENTRY_POINT_GROUP}: {value!r} is no folder of .yaml files")
        for path in _in_folder(folder):
            other = found.setdefault(path.stem, path)
            if other != path:
                raise InputError(f"{path}: target '{path.stem}' is also in {other}; rename one")
    return found


def _in_folder(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob("*.yaml")):
        if not _NAME.fullmatch(path.stem):
            raise InputError(f"{path}: a target needs a name in lower case")
        yield path
