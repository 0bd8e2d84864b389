"""Where targets lie: in this package, in folders that entry points of other packages name, or in one's own file."""

from __future__ import annotations

from pathlib import Path

from graphsurgery.errors import InputError, name_nearest
from graphsurgery.plugins import data_files

USUAL = "generic-cnn"  # what is said of accelerators where no one is named
_PACKAGE = "graphsurgery.targets"  # and the group of entry points
_SUFFIXES = (".yaml", ".yml")


def names() -> list[str]:
    """Return the names of all targets. Raises InputError where an entry point of another package fails."""
    return sorted(data_files(_PACKAGE, "target"))


def find_target(name_or_file: str, beside: Path | None = None) -> tuple[str, Path, str]:
    """Return the name of a target, its file, and that as messages show it; a path is relative to the folder `beside`.

    Raises InputError for an unknown name.
    """
    if name_or_file.lower().endswith(_SUFFIXES):
        path = Path(name_or_file) if beside is None else beside / name_or_file
        return path.stem, path, name_or_file
    files = data_files(_PACKAGE, "target")
    if name_or_file not in files:
        nearest = name_nearest(name_or_file, sorted(files)) or f" There are {', '.join(sorted(files))}"
        raise InputError(f"unknown target '{name_or_file}'; a file of your own ends in .yaml.{nearest}")
    return name_or_file, files[name_or_file], files[name_or_file].name
