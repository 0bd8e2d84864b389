"""`search:` of a variant: which options of its passes are looked for, among which values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphsurgery.errors import InputError, did_you_mean
from graphsurgery.recipe.pass_use import PassUse
from graphsurgery.recipe.plugin_options import plugin_options
from graphsurgery.recipe.schema import SearchKeys, WorstKeys
from graphsurgery.rewrite import Pass
from graphsurgery.strict_yaml.positions import Entry, Fields, Items, Node, quoted
from graphsurgery.strict_yaml.validate import fields, one_line, validate

# what `worst` needs of a pass: to rank its layers, and to leave some of them float
EXPLAIN, EXCLUDE = "explain", "exclude"
_MOST_COMBINATIONS = 100_000


@dataclass(frozen=True)
class Choice:
    """An option of a pass in the list of a part: one of `values`, or from none to `worst` layers that stay float."""

    part: str
    place: int
    option: str
    values: tuple[Any, ...] = ()
    worst: int | None = None

    def __len__(self) -> int:
        return len(self.values) if self.worst is None else self.worst + 1


@dataclass(frozen=True)
class Search:
    """What is looked for, what it has to keep, and how long; `schema.SearchKeys` says what each is."""

    choices: tuple[Choice, ...]
    sqnr: float
    max_ap_drop: float | None
    trials: int
    seed: int
    seconds: float
    memory_mb: int


def search_of(keys: SearchKeys, entry: Entry, part_passes: Mapping[str, Sequence[PassUse]], path: str) -> Search:
    """Return the search that a recipe asks for in a variant with these passes.

    Raises RecipeError for a pass that no part has, for an option that it doesn't have, and for a value that it takes in
    no combination with the others.
    """
    written = fields(fields(entry, path).entries["passes"], f"{path}.passes")
    used = {use.name for uses in part_passes.values() for use in uses}
    choices: list[Choice] = []
    for name, options in written.entries.items():
        if name not in used:
            listed = f"there are {', '.join(sorted(used))}" if used else "it has none"
            raise options.place.error(
                f"{path}.passes: no part of the variant has a pass {quoted(name)}.{did_you_mean(name, used)} "
                f"The passes of its part_passes: {listed}"
            )
        for part, uses in part_passes.items():
            for place, use in enumerate(uses):
                if use.name == name:
                    made = list(_choices(keys.passes[name], options, use, part, place, f"{path}.passes.{name}"))
                    _check_values(use, made, fields(options, path))
                    choices += made
    if not choices:
        raise entry.place.error(f"{path}.passes names no option to look for; write some: quantize: {{method: [...]}}")
    return Search(tuple(choices), keys.sqnr, keys.max_ap_drop, keys.trials, keys.seed, keys.seconds, keys.memory_mb)


def _choices(
    asked: Mapping[str, tuple[Any, ...] | WorstKeys], entry: Entry, use: PassUse, part: str, place: int, path: str
) -> Iterator[Choice]:
    known = plugin_options(type(use.pass_))
    for option, given in fields(entry, path).entries.items():
        if option not in known:
            listed = ", ".join(known) or "none"
            raise given.place.error(
                f"{path}: pass '{use.name}' has no option {quoted(option)}.{did_you_mean(option, known)} "
                f"It has {listed}"
            )
        said = asked[option]
        if isinstance(said, WorstKeys):
            if option != EXCLUDE or EXPLAIN not in known:
                raise given.place.error(
                    f"{path}.{option}: worst is for the option '{EXCLUDE}' of a pass that can '{EXPLAIN}'; list values"
                )
            yield Choice(part, place, option, worst=said.worst)
            continue
        assert isinstance(given.value, Items)
        values: list[Any] = []
        for item in given.value.items:
            value = _value(known[option].type, item, f"{path}.{option}")
            if value in values:
                raise item.place.error(f"{path}.{option}: {quoted(value)} is listed twice; list it once")
            values.append(value)
        yield Choice(part, place, option, tuple(values))


def _value(kind: Any, item: Node, path: str) -> Any:
    value = validate(kind, item, path, item.place)
    try:
        hash(value)
    except TypeError:
        raise item.place.error(f"{path}: a mapping can't be one of several values; write it into part_passes") from None
    return value


def _check_values(use: PassUse, choices: Sequence[Choice], written: Fields) -> None:
    """Raise RecipeError at the first value that the pass takes with no combination of the others."""
    listed = [choice for choice in choices if choice.worst is None]
    if math.prod(map(len, listed)) > _MOST_COMBINATIONS:
        return  # what isn't possible comes out as a failed trial
    refused: dict[tuple[int, int], str] = {}
    good: set[tuple[int, int]] = set()
    for picked in itertools.product(*(range(len(choice)) for choice in listed)):
        values = {choice.option: choice.values[at] for choice, at in zip(listed, picked, strict=True)}
        try:
            with_options(use.pass_, values)
        except InputError as error:
            for each in enumerate(picked):
                refused.setdefault(each, str(error))
        else:
            good.update(enumerate(picked))
    for number, at in sorted(refused.keys() - good):
        entry = written.entries[listed[number].option]
        assert isinstance(entry.value, Items)
        raise entry.value.items[at].place.error(f"pass '{use.name}': {refused[number, at]}")


def with_options(pass_: Pass, values: Mapping[str, Any]) -> Pass:
    """Return a pass with other options. Raises InputError where it doesn't take them together."""
    try:
        made: Pass = replace(pass_, **values)
    except ValueError as error:
        raise InputError(one_line(str(error))) from error
    return made
