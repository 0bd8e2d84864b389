"""Finds custom operators: the files of the package custom_ops, the entry points of other packages, and plug-in files.

Nothing is listed by hand. There is one list for the process, since a model meets the checker, shape inference and ONNX
Runtime in many places, and must be the same in all of them. The files go on to the processes that this one starts, by
way of an environment variable.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from graphsurgery import plugins
from graphsurgery.errors import InputError
from graphsurgery.graph.expansion.operator import CustomOperator, attributes, is_attribute_type, qualified

ENTRY_POINT_GROUP = "graphsurgery.custom_ops"
PACKAGE = "graphsurgery.custom_ops"
FILES = "GRAPHSURGERY_CUSTOM_OPS"  # an environment variable: paths of Python files, as PATH has them

_Known = dict[tuple[str, str], type[CustomOperator]]


@functools.cache
def _found() -> _Known:
    known: _Known = {}
    for module in plugins.files_of(PACKAGE):
        _add_all(known, module)
    for loaded in plugins.entry_points_of(ENTRY_POINT_GROUP):
        if isinstance(loaded, ModuleType):
            _add_all(known, loaded)
        else:
            _add(known, loaded)
    for path in _handed_down():
        _add_all(known, plugins.file(path))
    return known


def _handed_down() -> list[Path]:
    return [Path(path) for path in os.environ.get(FILES, "").split(os.pathsep) if path]


def operators() -> Mapping[tuple[str, str], type[CustomOperator]]:
    """Return all custom operators by domain and name."""
    return _found()


def add_file(path: Path, module: ModuleType | None = None) -> int:
    """Add the operators in a Python file, which is run unless `module` is what it holds, and return how many there are.

    Raises InputError for a wrong one, or a file that can't be read or fails.
    """
    added = _add_all(_found(), module or plugins.file(path))
    paths = [*_handed_down(), path.resolve()] if added else _handed_down()
    os.environ[FILES] = os.pathsep.join(dict.fromkeys(map(str, paths)))
    return added


def _add_all(known: _Known, module: ModuleType) -> int:
    found = plugins.classes_in(module, CustomOperator)
    for kind in found:
        _add(known, kind)
    return len(found)


def _add(known: _Known, kind: object) -> None:
    if not (isinstance(kind, type) and issubclass(kind, CustomOperator)):
        raise InputError(f"{kind!r} is no CustomOperator; register the class of one")
    place = plugins.source_file(kind)
    _require_declared(kind, f"{place}: custom operator {kind.__name__}")
    for domain in kind.domains:
        other = known.setdefault((domain, kind.name), kind)
        if plugins.source_file(other) != place:
            name = qualified(domain, kind.name)
            raise InputError(f"{place}: custom operator '{name}' is also defined in {plugins.source_file(other)}")
        known[domain, kind.name] = kind  # the same file, read again


def _require_declared(kind: type[CustomOperator], place: str) -> None:
    if not isinstance(getattr(kind, "name", None), str):
        raise InputError(f"{place} must declare its name, as text")
    for declared, example in (("domains", '("acme",)'), ("inputs", '("x", "bias?")')):
        names: object = getattr(kind, declared, None)
        if not (isinstance(names, tuple) and names and all(isinstance(name, str) for name in names)):
            raise InputError(f"{place} must declare {declared} as a tuple of names, such as {example}, not {names!r}")
    if "__dataclass_params__" not in vars(kind) and inspect.get_annotations(kind):
        raise InputError(f"{place} has attributes, so it must be a @dataclass(frozen=True)")
    if {option.name for option in dataclasses.fields(kind)} & {"name", "domains", "inputs", "opset"}:
        raise InputError(f"{place} must declare name, domains, inputs and opset without a type, or they are attributes")
    for option, declared_type in attributes(kind).items():
        if not is_attribute_type(declared_type):
            raise InputError(
                f"{place}: attribute '{option}' must be int, float, str, tuple[int, ...], tuple[float, ...] or Literal"
            )
    if sum(name.startswith("*") for name in kind.inputs) > 1:
        raise InputError(f"{place} must declare at most one input that stands for several")
