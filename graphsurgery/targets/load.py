"""Targets by name: from this package, from the entry points of other packages, or from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx

from graphsurgery.errors import InputError, did_you_mean
from graphsurgery.graph.expansion.registry import operators
from graphsurgery.rewrite.registry import Registry
from graphsurgery.strict_yaml.positions import Entry, Fields, Items, Place
from graphsurgery.strict_yaml.validate import check_keys, validate
from graphsurgery.targets.facts import FACTS, attributes_of, factors_of, inputs_of
from graphsurgery.targets.find import find_target
from graphsurgery.targets.layers import load_tree
from graphsurgery.targets.measured import FOLDER, Measurements, read_measurements
from graphsurgery.targets.schema import PRECISION, Rule, Target, one_or_more, parse_fix
from graphsurgery.targets.whole import WHOLE_FACTS

_WHOLE = "whole"


@dataclass(frozen=True)
class Named:
    """A target, what it is called, and the file in which what was measured of it would stand."""

    name: str
    target: Target
    measured: Path | None = None

    @cached_property
    def measurements(self) -> Measurements | None:
        """What was measured of it, None where nothing was. Raises InputError for a file that isn't `probe`'s."""
        return read_measurements(self.measured) if self.measured is not None and self.measured.is_file() else None

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


def load_target(name_or_file: str, registry: Registry) -> Named:
    """Return a target by its name, or from a .yaml file; its fixes are passes that `registry` knows.

    Raises RecipeError, which begins with file and line, for a mistake in the file, InputError for an unknown name.
    """
    name, path, shown = find_target(name_or_file)
    tree = load_tree(path, shown)
    check_keys(tree, [field.alias or key for key, field in Target.model_fields.items()], "")
    target: Target = validate(Target, tree, "the target", Place(shown, 1, path.parent))
    _check(target, tree, registry)
    return Named(name, target, path.parent / FOLDER / f"{name}.json")


def _check(target: Target, node: Fields, registry: Registry) -> None:
    """Raise RecipeError, with the line, for what the types don't tell."""
    entries = node.entries
    if target.source not in target.sources:
        raise entries["source"].place.error(_unknown("source", target.source, target.sources))
    for name, rules in (("tensors", target.general), (_WHOLE, (target.whole,)), ("others", (target.other,))):
        if name in entries:
            for rule, place in zip(rules, _places(entries[name]), strict=True):
                _check_rule(rule, place, name, None, target, registry)
    listed = entries["operators"].value
    assert isinstance(listed, Fields)
    for op, entry in listed.entries.items():
        _check_operator(op, entry, target, registry)


def _check_operator(op: str, entry: Entry, target: Target, registry: Registry) -> None:
    if "." not in op and not onnx.defs.has(op) and ("", op) not in operators():
        known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
        hint = did_you_mean(op, known)
        raise entry.place.error(f"'{op}' is no operator of ONNX; one of another domain is written DOMAIN.NAME.{hint}")
    rules = target.rules(op)
    for number, (rule, place) in enumerate(zip(rules, _places(entry), strict=True)):
        if number < len(rules) - 1 and not rule.when:
            raise place.place.error(f"{op}: no rule behind this one is ever reached, since it has no `when`")
        if any(rule.when and rule.when == other.when for other in rules[:number]):
            raise place.place.error(f"{op}: this rule is never reached, since one before it has the same `when`")
        _check_rule(rule, place, op, op, target, registry)


def _places(entry: Entry) -> list[Entry]:
    """Return the place of each rule of a key that has one rule or a list."""
    return [Entry(item.place, item) for item in entry.value.items] if isinstance(entry.value, Items) else [entry]


def _check_rule(rule: Rule, entry: Entry, path: str, op: str | None, target: Target, registry: Registry) -> None:
    def place(key: str) -> Place:
        held = entry.value
        return held.entries[key].place if isinstance(held, Fields) and key in held.entries else entry.place

    for key, names in (("when", rule.conditions), ("", rule.limits)):
        for name, allowed in names.items():
            if key == "when" and name == PRECISION:
                for precision in allowed.choices:
                    if precision not in target.precisions:
                        raise place(key).error(_unknown(f"{path}.when", str(precision), target.precisions))
            else:
                _check_limit(name, op, place(key or name), path)
    for name, limit in rule.limits.items():
        condition = rule.conditions.get(name)
        if condition is not None and not condition.meets(limit):
            raise place(name).error(f"{path}: {name} {limit} contradicts when: {{{name}: {condition}}}")
    inputs = {each for version in inputs_of(op or "") for each in version}
    for key, known in (("constant", inputs), ("omitted", inputs), ("written", inputs | attributes_of(op or ""))):
        for name in one_or_more(getattr(rule, key)):
            if name not in known:
                kind = "input" if known is inputs else "input or attribute"
                hint = did_you_mean(name, known)
                raise place(key).error(f"{path}.{key}: {op or 'this'} has no {kind} '{name}'.{hint}")
    if rule.source is not None and rule.source not in target.sources:
        raise place("source").error(_unknown(f"{path}.source", rule.source, target.sources))
    for precision in one_or_more(rule.precisions or ()):
        if precision not in target.precisions:
            raise place("precisions").error(_unknown(f"{path}.precisions", precision, target.precisions))
    if isinstance(rule.beyond, Mapping):
        _check_named(rule, rule.beyond, place("else"), f"{path}.else")
    _check_fixes(rule, place("fix"), path, registry)


def _check_limit(name: str, op: str | None, place: Place, path: str) -> None:
    if "*" in name:
        for each in factors_of(name):
            _check_limit(each, op, place, path)
        return
    inputs = {each for version in inputs_of(op or "") for each in version}
    facts = WHOLE_FACTS if path == _WHOLE else FACTS
    if name in facts or name in attributes_of(op or "") or name in inputs:
        return
    if op is not None and "." in op:
        return  # nobody says which attributes an operator of another domain has
    known = {*facts, *attributes_of(op or ""), *inputs}
    raise place.error(
        f"{path}: '{name}' is no fact, and no attribute or input of {op or 'all operators'}.{did_you_mean(name, known)}"
    )


def _check_named(rule: Rule, by_limit: Mapping[str, Any], place: Place, path: str) -> None:
    """Raise where `fix` or `else` names a limit that the rule hasn't."""
    inputs = [name for names in (rule.constant, rule.omitted, rule.written) for name in one_or_more(names)]
    limits = {*rule.limits, *inputs, "precisions"}
    for limit in by_limit:
        if limit not in limits:
            raise place.error(f"{path}: there is no limit '{limit}' here.{did_you_mean(limit, limits)}")


def _check_fixes(rule: Rule, place: Place, path: str, registry: Registry) -> None:
    if isinstance(rule.fix, str | tuple):
        named = one_or_more(rule.fix)
    else:
        named = tuple(name for each in rule.fix.values() for name in one_or_more(each))
        _check_named(rule, rule.fix, place, f"{path}.fix")
    for fix in named:
        try:
            name, options = parse_fix(fix)
            if name not in registry.names():
                raise place.error(f"{path}.fix: '{name}' is no pass.{did_you_mean(name, registry.names())}")
            if options:
                registry.get(name)(**options)
        except (TypeError, ValueError) as error:
            raise place.error(f"{path}.fix: {fix}: {error}") from error


def _unknown(path: str, name: str, known: Any) -> str:
    listed: Sequence[str] = list(known)
    return f"{path}: there is no '{name}' in this file, but {', '.join(listed)}.{did_you_mean(name, listed)}"
