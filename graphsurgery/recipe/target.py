"""Reads the section `target` of a recipe, and what a variant says of its precision."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphsurgery.errors import InputError, RecipeError
from graphsurgery.recipe.schema import TargetKeys
from graphsurgery.rewrite.registry import Registry
from graphsurgery.strict_yaml.positions import Entry, Place
from graphsurgery.strict_yaml.validate import check_keys, fields, validate
from graphsurgery.targets.load import Named, load_target


@dataclass(frozen=True)
class ChosenTarget:
    """The target that parts are for, and in which of its precisions."""

    target: Named
    precision: str


def chosen_target(entry: Entry, registry: Registry) -> ChosenTarget:
    """Return the target that a recipe names; the path of a file of one is whole by now (`layers`).

    Raises RecipeError at the key at fault, or at the line of the target's own file.
    """
    node = fields(entry, "target")
    check_keys(node, TargetKeys.model_fields, "target")
    section: TargetKeys = validate(TargetKeys, node, "target", entry.place)
    try:
        target = load_target(section.name, registry)
    except RecipeError:
        raise  # it names a line of the target's file
    except InputError as error:
        raise node.entries["name"].value.place.error(f"target.name: {error}") from error
    chosen = ChosenTarget(target, target.target.precisions[0])
    if section.precision is None:
        return chosen
    place = node.entries["precision"].place
    return replace(chosen, precision=checked_precision(chosen, section.precision, place, "target.precision"))


def checked_precision(target: ChosenTarget | None, precision: str, place: Place, path: str) -> str:
    """Return a precision that the target has. Raises RecipeError for another one, and where there is no target."""
    if target is None:
        raise place.error(f"{path} is one of a target's, and the recipe has none; name it: target: rk3588")
    try:
        return target.target.precision(precision)
    except InputError as error:
        raise place.error(f"{path}: {error}") from error
