"""Checks pieces of a recipe against types, and says in one line, with file and line, what is wrong with which value."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from graphsurgery.errors import InputError, did_you_mean
from graphsurgery.recipe.yaml_positions import (
    Entry,
    Fields,
    Items,
    Node,
    Place,
    Scalar,
    is_null,
    parse_yaml,
    plain,
    quoted,
    shortened,
)


class _Named(Protocol):
    name: ClassVar[str]


PluginT = TypeVar("PluginT", bound=_Named)

_EXPECTED = {
    "bool_type": "should be true or false",
    "dict_type": "should be a mapping",
    "float_type": "should be a number",
    "int_type": "should be a whole number",
    "list_type": "should be a list",
    "mapping_type": "should be a mapping",
    "string_pattern_mismatch": "should be a plain name",
    "string_type": "should be text",
    "tuple_type": "should be a list",
}


def fields(entry: Entry, path: str) -> Fields:
    """The mapping behind a key. Raises RecipeError where something else stands there."""
    if isinstance(entry.value, Fields):
        return entry.value
    advice = "; write {} for the defaults, or leave the key out" if is_null(entry.value) else ""
    raise entry.value.place.error(f"{path} should be a mapping, got {_got(entry.value)}{advice}")


def check_keys(node: Fields, known: Collection[str], path: str) -> None:
    """Raise RecipeError at the first key that is not `known`."""
    for key, entry in node.entries.items():
        if key not in known:
            where = f" in {path}" if path else ""
            raise entry.place.error(
                f"unknown key {quoted(key)}{where}.{did_you_mean(key, known)} Its keys: {', '.join(known)}"
            )


def validate(schema: Any, node: Node, path: str, place: Place) -> Any:
    """Return the node as a value of the type `schema`; nothing is converted but lists to tuples and text to paths.

    `path` is the dotted key and `place` the key's place. Raises RecipeError at the value at fault.
    """
    try:
        return TypeAdapter(schema).validate_json(json.dumps(plain(node)), strict=True)
    except ValidationError as error:
        detail = error.errors()[0]
        at, bad, dotted = _follow(node, detail["loc"], path, place)
        raise at.error(_complaint(detail, bad, dotted)) from error


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
        raise _place_of_refusal(str(error), options, place).error(f"{called}: {_one_line(str(error))}") from error


def _place_of_refusal(message: str, options: Fields, place: Place) -> Place:
    """The line of the only option, or of the one that the pass names when it refuses its options."""
    if len(options.entries) == 1:
        return next(iter(options.entries.values())).place
    words = re.findall(r"\w+", message)
    return next((entry.place for name, entry in options.entries.items() if name in words), place)


def _follow(node: Node, steps: Sequence[str | int], path: str, place: Place) -> tuple[Place, Node, str]:
    """Walk into `node` as far as `steps` lead: the place, the node and the dotted key reached."""
    for step in steps:
        if isinstance(node, Fields) and step in node.entries:
            entry = node.entries[str(step)]
            place, node, path = entry.place, entry.value, f"{path}.{step}"
        elif isinstance(node, Items) and isinstance(step, int) and step < len(node.items):
            node, path = node.items[step], f"{path}[{step}]"
            place = node.place
        else:
            break
    if isinstance(node, Scalar) and not is_null(node):
        place = node.place
    return place, node, path


def _complaint(detail: Any, node: Node, path: str) -> str:
    """Reword pydantic's account of an error."""
    message: str = detail["msg"]
    last = detail["loc"][-1] if detail["loc"] else None
    if detail["type"] == "missing":
        return f"{path} has too few items" if isinstance(last, int) else f"{path} lacks {quoted(last)}"
    if detail["type"] == "too_long":
        return f"{path} has more than {detail['ctx']['max_length']} items"
    if detail["type"] == "too_short":
        return f"{path} should have an item or more, got {_got(node)}"
    if detail["type"] == "value_error":
        return f"{path}: {_one_line(str(detail['ctx']['error']))}"
    words = _EXPECTED.get(detail["type"])
    if words is None:
        message = _one_line(message)
        words = message.removeprefix("Input ") if message.startswith("Input ") else f"is refused: {message}"
    return f"{path} {words}, got {_got(node)}"


def _got(node: Node) -> str:
    return quoted(node.value) if isinstance(node, Scalar) else shortened(json.dumps(plain(node), ensure_ascii=False))


def _one_line(message: str) -> str:
    return " ".join(message.split())
