"""Reads the section `detections` of a recipe."""

from __future__ import annotations

import re
import types
from typing import Any, Union, get_args, get_origin

from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.detections.presets import PRESETS, laid_under
from graphsurgery.errors import InputError
from graphsurgery.recipe.detections_schema import DetectionsKeys
from graphsurgery.recipe.section import Section
from graphsurgery.strict_yaml.positions import Entry, Fields, Items, Node, Place, plain
from graphsurgery.strict_yaml.validate import check_keys, fields, validate


def postprocessing(entry: Entry) -> Postprocessing:
    """Return the section behind a key, with its preset laid under it. Raises RecipeError at the key at fault."""
    node = fields(entry, "detections")
    _check_keys(node, DetectionsKeys, "detections")
    section = validate(DetectionsKeys, node, "detections", entry.place)
    own = {key: value for key, value in plain(node).items() if key != "preset"}
    try:
        return Postprocessing.from_json(laid_under(PRESETS.get(section.preset, {}), own))
    except InputError as error:
        raise _place_of(str(error), node, entry.place).error(str(error)) from error


def _check_keys(node: Node, schema: type[Section], path: str) -> None:
    """Refuse an unknown key with the known ones, in the sections below too."""
    if isinstance(node, Items):
        for number, item in enumerate(node.items):
            _check_keys(item, schema, f"{path}[{number}]")
    if not isinstance(node, Fields):
        return
    check_keys(node, schema.model_fields, path)
    for key, entry in node.entries.items():
        for below in _sections_in(schema.model_fields[key].annotation):
            _check_keys(entry.value, below, f"{path}.{key}")


def _sections_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    is_composed = get_origin(annotation) in (Union, types.UnionType, tuple)
    return [each for inner in get_args(annotation) for each in _sections_in(inner)] if is_composed else []


def _place_of(message: str, node: Node, place: Place) -> Place:
    """Return the place of the key that a message begins with, as far as the section has it."""
    for step in re.findall(r"\.(\w+)", message.partition(" ")[0].rstrip(":")):
        if not isinstance(node, Fields) or step not in node.entries:
            break
        place, node = node.entries[step].place, node.entries[step].value
    return place
