"""Finds passes: the files of the passes package, the entry points of other packages, and `--plugin FILE`.

Nothing is listed by hand. File `widen_maxpool.py` holds pass `widen-maxpool`, class `WidenMaxpool`; a plug-in file
may hold any number of passes under any class names.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import onnx

from graphsurgery import plugins
from graphsurgery.errors import InputError, did_you_mean
from graphsurgery.graph.expansion import registry as custom_operators
from graphsurgery.plugins import source_file
from graphsurgery.rewrite import GraphPass, ModelPass, NodePass, Pass

ENTRY_POINT_GROUP = "graphsurgery.passes"
_OPERATOR = re.compile(r"([A-Za-z0-9_-]+\.)*[A-Za-z_][A-Za-z0-9_]*")
KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass
class Registry:
    """Passes by name."""

    _passes: dict[str, type[Pass]] = field(default_factory=dict)
    _plugins: set[Path] = field(default_factory=set)

    def names(self) -> list[str]:
        """Return the names of all passes in alphabetical order."""
        return sorted(self._passes)

    def get(self, name: str) -> type[Pass]:
        """Return the pass called `name`; InputError with the nearest names when there is none."""
        try:
            return self._passes[name]
        except KeyError:
            raise InputError(f"unknown pass '{name}'.{suggest(name, self.names())}") from None

    def looking_at(self, op: str) -> list[str]:
        """Return the names of the passes that match an operator, such as Conv or com.microsoft.Gelu.

        Raises InputError, with the nearest operator, where none does.
        """
        found = self.passes_for(op)
        if not found:
            known = {each for pass_ in self._passes.values() for each in operators_of(pass_)}
            raise InputError(f"no pass looks at operator '{op}'.{did_you_mean(op, known)}")
        return found

    def passes_for(self, op: str) -> list[str]:
        """Return what `looking_at` does, nothing where no pass matches the operator."""
        return sorted(name for name, pass_ in self._passes.items() if op in operators_of(pass_))

    def outputs_apart(self, op: str) -> list[str]:
        """Return the names of those that give the model other outputs where such an operator writes one."""
        return [name for name in self.passes_for(op) if not self._passes[name].keeps_outputs]

    def add(self, pass_: object) -> None:
        """Register a pass; InputError when its declaration is wrong or its name is taken."""
        if not (isinstance(pass_, type) and issubclass(pass_, NodePass | GraphPass | ModelPass)):
            raise InputError(f"{pass_!r} is no NodePass, GraphPass or ModelPass; register the class of a pass")
        place = source_file(pass_)
        name, effect = getattr(pass_, "name", None), getattr(pass_, "effect", None)
        if not isinstance(name, str) or not KEBAB.fullmatch(name):
            raise InputError(f"{place}: pass {pass_.__name__} needs a kebab-case name, not {name!r}")
        if effect not in ("exact", "approximate"):
            raise InputError(f"{place}: pass '{name}' must declare effect 'exact' or 'approximate', not {effect!r}")
        if "__dataclass_params__" not in vars(pass_) and inspect.get_annotations(pass_):  # it inherits its base's
            raise InputError(f"{place}: pass '{name}' has options, so it must be a @dataclass(frozen=True)")
        if {"name", "effect"} & {option.name for option in dataclasses.fields(pass_)}:
            raise InputError(f"{place}: pass '{name}' must declare name and effect without a type, or they are options")
        if issubclass(pass_, NodePass | GraphPass):
            _check_matches(pass_, place)
        other = self._passes.get(name)
        if other is not None and other is not pass_:
            raise InputError(f"{place}: pass '{name}' is also defined in {source_file(other)}; rename one")
        self._passes[name] = pass_

    def add_module(self, module: ModuleType) -> int:
        """Register every pass that `module` defines itself and return how many there are.

        A class whose name begins with an underscore is not a pass but a base of some.
        """
        found = plugins.classes_in(module, NodePass, GraphPass, ModelPass)
        for pass_ in found:
            self.add(pass_)
        return len(found)

    def add_plugin(self, path: Path) -> None:
        """Register the passes and the custom operators in a Python file, which is run: give only files that you trust.

        A file that is given twice is run once. Raises InputError when the file can't be read, fails to import, or
        holds neither.
        """
        resolved = path.resolve()
        if resolved in self._plugins:
            return
        module = plugins.file(path)
        self._plugins.add(resolved)
        if self.add_module(module) + custom_operators.add_file(path, module) == 0:
            raise InputError(f"{path}: the plug-in defines no NodePass, GraphPass, ModelPass or CustomOperator")


def discover(files: Iterable[Path] = ()) -> Registry:
    """Return all passes: the built-in ones, those of installed packages, and those in plug-in `files`."""
    registry = Registry()
    for module in plugins.files_of("graphsurgery.passes"):
        registry.add_module(module)
    for loaded in plugins.entry_points_of(ENTRY_POINT_GROUP):
        if inspect.ismodule(loaded):
            registry.add_module(loaded)
        else:
            registry.add(loaded)
    for file in files:
        registry.add_plugin(file)
    return registry


def operators_of(pass_: type[Pass]) -> tuple[str, ...]:
    """Return the operators that a pass looks at, as far as it says so."""
    return pass_.matches if issubclass(pass_, NodePass | GraphPass) else ()


def _check_matches(pass_: type[NodePass | GraphPass], place: str) -> None:
    """Raise InputError where `matches` holds anything but operators; of another domain's nothing is known."""
    matches: object = pass_.matches
    if not isinstance(matches, tuple) or not all(isinstance(op, str) and _OPERATOR.fullmatch(op) for op in matches):
        raise InputError(
            f"{place}: pass '{pass_.name}' must declare matches as a tuple of operators, "
            f'such as ("Conv", "com.microsoft.Gelu"), not {matches!r}'
        )
    for op in matches:
        if "." not in op and op not in standard_operators():
            raise InputError(
                f"{place}: pass '{pass_.name}' matches '{op}', and ONNX has no such operator."
                f"{did_you_mean(op, standard_operators())} One of another domain is written with it: com.microsoft.Gelu"
            )


@functools.cache
def standard_operators() -> frozenset[str]:
    """Return the names of ONNX's own operators, those of all operator sets."""
    return frozenset(schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == "")


def picture(pass_: type[Pass]) -> str:
    """Return what the pass does, before -> after: the docstring of its file, or of its class in a plug-in."""
    module = sys.modules.get(pass_.__module__)
    text = (module.__doc__ if module else None) or pass_.__doc__ or ""
    return inspect.cleandoc(text)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'? See: ..." for a name that is not known."""
    return f"{did_you_mean(name, known)} See: python -m graphsurgery passes"
