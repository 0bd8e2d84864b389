"""Finds compilers: the files of graphsurgery.compilers, the entry points of other packages, and `--plugin FILE`."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable
from pathlib import Path

from graphsurgery import plugins
from graphsurgery.compiling.compiler import Compiler
from graphsurgery.errors import InputError, name_nearest

ENTRY_POINT_GROUP = "graphsurgery.compilers"
_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")


class Registry:
    """Compilers by name."""

    def __init__(self) -> None:
        self._compilers: dict[str, type[Compiler]] = {}

    def names(self) -> list[str]:
        """Return the names of all compilers in alphabetical order."""
        return sorted(self._compilers)

    def get(self, name: str) -> type[Compiler]:
        """Return the compiler called `name`. Raises InputError with the nearest names when there is none."""
        try:
            return self._compilers[name]
        except KeyError:
            raise InputError(f"unknown compiler '{name}'.{name_nearest(name, self.names())}") from None

    def add(self, kind: object) -> None:
        """Register a compiler. Raises InputError when its declaration is wrong or its name is taken."""
        if not (inspect.isclass(kind) and issubclass(kind, Compiler)):
            raise InputError(f"{kind!r} is no Compiler; register the class of one")
        place = plugins.source_file(kind)
        name = getattr(kind, "name", None)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError(f"{place}: compiler {kind.__name__} needs a name in lower case, not {name!r}")
        if not dataclasses.is_dataclass(kind):
            raise InputError(
                f"{place}: compiler '{name}' must be a @dataclass(frozen=True); its fields are its options"
            )
        other = self._compilers.setdefault(name, kind)
        if other is not kind:
            raise InputError(f"{place}: compiler '{name}' is also defined in {plugins.source_file(other)}; rename one")


def discover(files: Iterable[Path] = ()) -> Registry:
    """Return all compilers: the built-in ones, those of installed packages, and those in plug-in `files`.

    Raises InputError for a file that can't be read, fails, or has none.
    """
    registry = Registry()
    for module in plugins.files_of("graphsurgery.compilers"):
        for kind in plugins.classes_in(module, Compiler):
            registry.add(kind)
    for found in plugins.entry_points_of(ENTRY_POINT_GROUP):
        registry.add(found)
    for path in files:
        kinds = plugins.classes_in(plugins.file(path), Compiler)
        if not kinds:
            raise InputError(f"{path}: the plug-in defines no Compiler")
        for kind in kinds:
            registry.add(kind)
    return registry
