"""Checks pieces of a file against types, and says in one line, with file and line, what is wrong with which value."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from graphsurgery.errors import did_you_mean
from graphsurgery.strict_yaml.positions import (
    Entry,
    Fields,
    Items,
    Node,
    Place,
    Scalar,
    is_null,
    plain,
    quoted,
    shortened,
)

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


def _follow(node: Node, steps: Sequence[str | int], path: str, place: Place) -> tuple[Place, Node, str]:
    """Walk into `node` as far as `steps` lead: the place, the node and the dotted key reached."""
    for step in steps:
        if isinstance(node, Fields) and step in node.entries:
            entry = node.entries[str(step)]
            place, node, path = entry.place, entry.value, f"{path}.{step}"
        elif isinstance(node, Items) and isinstance(step, int) and step < len(node.items):
            node, path = node.items[step], f"{path}[{step}]"
            place = node.place
        # else: the tag of a kind of value, or a key that is missing
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
        return f"{path}: {one_line(str(detail['ctx']['error']))}"
    words = _EXPECTED.get(detail["type"])
    if words is None:
        message = one_line(message)
        words = message.removeprefix("Input ") if message.startswith("Input ") else f"is refused: {message}"
    return f"{path} {words}, got {_got(node)}"


def _got(node: Node) -> str:
    return quoted(node.value) if isinstance(node, Scalar) else shortened(json.dumps(plain(node), ensure_ascii=False))


def one_line(message: str) -> str:
    """Return a message with all white space, line ends too, as single spaces."""
    return " ".join(message.split())
