"""Targets by name: from this package, from the entry points of other packages, or from a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import onnx

from graphsurgery.errors import InputError, did_you_mean, name_nearest
from graphsurgery.plugins import entry_points_of
from graphsurgery.rewrite.registry import Registry
from graphsurgery.strict_yaml.positions import Entry, Fields, Items, Place, read_yaml
from graphsurgery.strict_yaml.validate import validate
from graphsurgery.targets.facts import FACTS, attributes_of, inputs_of
from graphsurgery.targets.schema import Rule, Target, one_or_more, operators_in

ENTRY_POINT_GROUP = "graphsurgery.targets"
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


@dataclass(frozen=True)
class Named:
    """A target and what it is called."""

    name: str
    target: Target

    def precision(self, asked: str | None) -> str:
        """Return the precision that is asked for, the usual one if None. Raises InputError for one that it hasn't."""
        known = self.target.precisions
        if asked is None:
            return known[0]
        if asked not in known:
            raise InputError(
                f"target '{self.name}' has no precision '{asked}', but {', '.join(known)}.{did_you_mean(asked, known)}"
            )
        return asked


def names() -> list[str]:
    """Return the names of all targets. Raises InputError where an entry point of another package fails."""
    return sorted(_files())


def load_target(name_or_file: str, registry: Registry) -> Named:
    """Return a target by its name, or from a .yaml file; its fixes are passes that `registry` knows.

    Raises RecipeError, which begins with file and line, for a mistake in the file, InputError for an unknown name.
    """
    if name_or_file.lower().endswith((".yaml", ".yml")):
        path = Path(name_or_file)
        return Named(path.stem, _read(path, name_or_file, registry))
    files = _files()
    if name_or_file not in files:
        nearest = name_nearest(name_or_file, sorted(files))
        raise InputError(f"unknown target '{name_or_file}', and a file of your own ends in .yaml.{nearest}")
    path = files[name_or_file]
    return Named(name_or_file, _read(path, path.name, registry))


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


def _read(path: Path, shown: str, registry: Registry) -> Target:
    node = read_yaml(path, shown)
    start = Place(shown, 1, path.parent)
    if not isinstance(node, Fields):
        raise start.error("a target is a mapping with title, sources, source, operators and others")
    target: Target = validate(Target, node, "the target", start)
    _check(target, node, registry)
    return target


def _check(target: Target, node: Fields, registry: Registry) -> None:
    """Raise RecipeError, with the line, for what the types don't tell."""
    entries = node.entries
    if target.source not in target.sources:
        raise entries["source"].place.error(_unknown("source", target.source, target.sources))
    for name, rule in (("tensors", target.tensors), ("others", target.other)):
        if name in entries:
            _check_rule(rule, entries[name], name, None, target, registry)
    operators = entries["operators"].value
    assert isinstance(operators, Fields)
    seen: dict[str, str] = {}
    for key, entry in operators.entries.items():
        for op in operators_in(key):
            if op in seen:
                raise entry.place.error(f"'{op}' stands in '{seen[op]}' already; write it once")
            seen[op] = key
            _check_operator(op, entry, target, registry)


def _check_operator(op: str, entry: Entry, target: Target, registry: Registry) -> None:
    if "." not in op and not onnx.defs.has(op):
        known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
        hint = did_you_mean(op, known)
        raise entry.place.error(f"'{op}' is no operator of ONNX; one of another domain is written DOMAIN.NAME.{hint}")
    rules = target.rules(op)
    places = [Entry(item.place, item) for item in entry.value.items] if isinstance(entry.value, Items) else [entry]
    for number, (rule, place) in enumerate(zip(rules, places, strict=True)):
        if number < len(rules) - 1 and not rule.when:
            raise place.place.error(f"{op}: no rule behind this one is ever reached, since it has no `when`")
        _check_rule(rule, place, op, op, target, registry)


def _check_rule(rule: Rule, entry: Entry, path: str, op: str | None, target: Target, registry: Registry) -> None:
    def place(key: str) -> Place:
        held = entry.value
        return held.entries[key].place if isinstance(held, Fields) and key in held.entries else entry.place

    for key, names in (("when", rule.conditions), ("", rule.limits)):
        for name in names:
            _check_limit(name, op, place(key or name), path)
    for name, limit in rule.limits.items():
        condition = rule.conditions.get(name)
        if condition is not None and not condition.meets(limit):
            raise place(name).error(f"{path}: {name} {limit} contradicts when: {{{name}: {condition}}}")
    for key in ("constant", "omitted"):
        for name in one_or_more(getattr(rule, key)):
            known = {each for version in inputs_of(op or "") for each in version}
            if name not in known:
                hint = did_you_mean(name, known)
                raise place(key).error(f"{path}.{key}: {op or 'this'} has no input '{name}'.{hint}")
    if rule.source is not None and rule.source not in target.sources:
        raise place("source").error(_unknown(f"{path}.source", rule.source, target.sources))
    for precision in one_or_more(rule.precisions or ()):
        if precision not in target.precisions:
            raise place("precisions").error(_unknown(f"{path}.precisions", precision, target.precisions))
    _check_fixes(rule, place("fix"), path, registry)


def _check_limit(name: str, op: str | None, place: Place, path: str) -> None:
    inputs = {each for version in inputs_of(op or "") for each in version}
    if name in FACTS or name in attributes_of(op or "") or name in inputs:
        return
    if op is not None and "." in op:
        return  # nobody says which attributes an operator of another domain has
    known = {*FACTS, *attributes_of(op or ""), *inputs}
    raise place.error(
        f"{path}: '{name}' is no fact, and no attribute or input of {op or 'all operators'}.{did_you_mean(name, known)}"
    )


def _check_fixes(rule: Rule, place: Place, path: str, registry: Registry) -> None:
    if isinstance(rule.fix, str | tuple):
        named = one_or_more(rule.fix)
    else:
        named = tuple(name for each in rule.fix.values() for name in one_or_more(each))
        limits = {*rule.limits, *one_or_more(rule.constant), *one_or_more(rule.omitted), "precisions"}
        for limit in rule.fix:
            if limit not in limits:
                raise place.error(f"{path}.fix: there is no limit '{limit}' here.{did_you_mean(limit, limits)}")
    for name in named:
        if name not in registry.names():
            raise place.error(f"{path}.fix: '{name}' is no pass.{did_you_mean(name, registry.names())}")


def _unknown(path: str, name: str, known: Any) -> str:
    listed: Sequence[str] = list(known)
    return f"{path}: there is no '{name}' in this file, but {', '.join(listed)}.{did_you_mean(name, listed)}"
