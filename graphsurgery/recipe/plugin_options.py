"""The options of a pass or a compiler, as a recipe or the command line gives them."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from graphsurgery.errors import InputError, did_you_mean
from graphsurgery.strict_yaml.positions import Entry, Fields, Place, parse_yaml, quoted
from graphsurgery.strict_yaml.validate import one_line, validate


class _Named(Protocol):
    name: ClassVar[str]


PluginT = TypeVar("PluginT", bound=_Named)


@dataclasses.dataclass(frozen=True)
class PassOption:
    """An option of a plug-in: its type, and its default unless the option is `required`."""

    type: Any
    required: bool
    default: Any


def options_of(texts: Sequence[str]) -> tuple[Fields, Place]:
    """Return options that are written NAME=VALUE on the command line, as a recipe has them, and where they stand.

    Raises RecipeError for one that isn't written so, or comes twice.
    """
    entries = {}
    for text in texts:
        option, equals, value = text.partition("=")
        place = Place(f"--option {text}", None, Path.cwd())
        if not equals or not option:
            raise place.error("write it as --option NAME=VALUE")
        if option in entries:
            raise place.error(f"'{option}' is given twice; give it once")
        entries[option] = Entry(place, parse_yaml(value, place))
    place = Place("--option", None, Path.cwd())
    return Fields(entries, place), place


def plugin_options(cls: type) -> dict[str, PassOption]:
    """Return the options of a pass or a compiler by name: its dataclass fields."""
    types = typing.get_type_hints(cls, include_extras=True)
    options = {}
    for field in dataclasses.fields(cls):
        if field.init:
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            required = default is dataclasses.MISSING
            options[field.name] = PassOption(types[field.name], required, None if required else default)
    return options


def make_plugin(cls: type[PluginT], called: str, options: Fields, place: Place) -> PluginT:
    """Build a plug-in out of its options, as a recipe gives them under its name; messages call it `called`.

    `place` is the name's. Raises RecipeError for an option that is unknown, missing, of the wrong type or refused
    by the plug-in itself.
    """
    declared = plugin_options(cls)
    for option, entry in options.entries.items():
        if option not in declared:
            listed = f"options: {', '.join(declared)}" if declared else "it has none"
            raise entry.place.error(
                f"unknown option {quoted(option)} of {called} ({listed}).{did_you_mean(option, declared)}"
            )
    for option, about in declared.items():
        if about.required and option not in options.entries:
            raise place.error(f"{called} needs the option '{option}': write {cls.name}: {{{option}: ...}}")
    values: dict[str, Any] = {}
    for option, entry in options.entries.items():
        value = validate(declared[option].type, entry.value, f"{called}: {option}", entry.place)
        values[option] = entry.value.place.folder / value if isinstance(value, Path) else value
    try:
        return cls(**values)
    except (ValueError, InputError) as error:
        raise _place_of_refusal(str(error), options, place).error(f"{called}: {one_line(str(error))}") from error


def _place_of_refusal(message: str, options: Fields, place: Place) -> Place:
    """The line of the only option, or of the one that the pass names when it refuses its options."""
    if len(options.entries) == 1:
        return next(iter(options.entries.values())).place
    words = re.findall(r"\w+", message)
    return next((entry.place for name, entry in options.entries.items() if name in words), place)
