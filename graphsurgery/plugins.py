"""Where plug-ins are found: the files of a package, the entry points of other packages, and files that a user names.

A plug-in that is data is a .yaml file: in a package of this one, or in a folder that an entry point names.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import zlib
from collections.abc import Iterator
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from graphsurgery.errors import InputError, first_line

_DATA_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


def files_of(package: str) -> Iterator[ModuleType]:
    """Yield the modules of a package, but for those whose names begin with an underscore."""
    for entry in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not entry.name.startswith("_"):
            yield importlib.import_module(f"{package}.{entry.name}")


def entry_points_of(group: str) -> Iterator[object]:
    """Yield what the entry points of installed packages name. Raises InputError where one fails."""
    for point in sorted(entry_points(group=group), key=lambda p: (p.name, p.value)):
        try:
            yield point.load()
        except (Exception, SystemExit) as error:  # another package's code: anything may come out of it
            what = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(f"entry point '{point.name}' ({point.value}) fails: {what}") from error


def data_files(package: str, kind: str) -> dict[str, Path]:
    """Return the .yaml files of a package, and of the folders that entry points in a group of its name name, by name.

    `kind` is what one is called in messages. A file whose name begins with an underscore is for others to extend, and
    none by itself. Raises InputError for an entry point that fails or names no folder, two
    files of one name, and a name that isn't in lower case.
    """
    folders = [Path(str(resources.files(package)))]
    for value in entry_points_of(package):
        folders.append(Path(str(value)) if isinstance(value, str | Path) else Path())
        if folders[-1] == Path() or not folders[-1].is_dir():
            raise InputError(f"entry point of {package}: {value!r} is no folder of .yaml files")
    found: dict[str, Path] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("[!_]*.yaml"))):
        if not _DATA_NAME.fullmatch(path.stem):
            raise InputError(f"{path}: a {kind} needs a name in lower case")
        other = found.setdefault(path.stem, path)
        if other != path:
            raise InputError(f"{path}: {kind} '{path.stem}' is also in {other}; rename one")
    return found


def file(path: Path) -> ModuleType:
    """Return the module in a Python file, which is run once: give only files that you trust.

    Raises InputError when the file can't be read or fails.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such plug-in file")
    resolved = path.resolve()
    # two plug-ins may have one file name in different folders
    name = f"graphsurgery_plugin_{path.stem}_{zlib.crc32(str(resolved).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: a plug-in is a Python file (*.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the plug-in is the user's code, as above
        del sys.modules[name]
        what = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{path}: the plug-in fails on import: {what}") from error
    return module


def classes_in(module: ModuleType, *kinds: type) -> list[type]:
    """Return the subclasses of `kinds` that `module` defines; one whose name begins with an underscore is a base."""
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, kinds)
        and value not in kinds
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
    ]


def source_file(class_: type) -> str:
    """Return the file that defines a class, for messages."""
    return getattr(sys.modules.get(class_.__module__), "__file__", None) or class_.__module__
