"""One tree out of the file of a target and those that it extends.

    extends: rk3588                 # a target's name, or a path that ends in .yaml, from this file's folder on
    title: Rockchip RK2118
    operators: {Gather: cpu, Gemm: null}

What the file writes takes the place of what it extends: of `sources` and `operators` line by line, an operator's rules
whole, of all else the whole key. `null` takes away.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graphsurgery.errors import InputError
from graphsurgery.strict_yaml.positions import Entry, Fields, Node, Place, Scalar, is_null, read_yaml
from graphsurgery.targets.find import find_target
from graphsurgery.targets.schema import operators_in

_BY_LINE = ("sources", "operators")


def load_tree(path: Path, shown: str, above: tuple[Path, ...] = ()) -> Fields:
    """Return the file laid over those that it extends, every operator with a key of its own.

    `above` are the files that extend this one. Raises RecipeError with the place at fault.
    """
    start = Place(shown, 1, path.parent)
    root = read_yaml(path, shown)
    if not isinstance(root, Fields):
        raise start.error("a target is a mapping with title, sources, source, operators and others")
    own = {key: entry for key, entry in root.entries.items() if key != "extends"}
    if "operators" in own:
        own["operators"] = _one_by_one(own["operators"])
    extends = root.entries.get("extends")
    if extends is None:
        return Fields(own, root.place)
    place, name = extends.value.place, extends.value
    if not (isinstance(name, Scalar) and isinstance(name.value, str)):
        raise place.error("extends should be the name of a target, or a path that ends in .yaml")
    try:
        _, base_path, base_shown = find_target(name.value, beside=place.folder)
    except InputError as error:
        raise place.error(f"extends: {error}") from error
    chain = (*above, path.resolve())
    if base_path.resolve() in chain:
        raise place.error(f"extends '{name.value}' leads back to {base_shown}; a target can't extend itself")
    if not base_path.is_file():
        raise place.error(f"extends: there is no file {name.value} beside this one")
    base = load_tree(base_path, base_shown, chain)
    return Fields(_over(base.entries, own), root.place)


def _one_by_one(operators: Entry) -> Entry:
    """Return `Relu, Add: ...` as an entry for each. Raises RecipeError for an operator that stands there twice."""
    if not isinstance(operators.value, Fields):
        return operators
    found: dict[str, Entry] = {}
    written: dict[str, str] = {}
    for key, entry in operators.value.entries.items():
        for op in operators_in(key):
            if op in found:
                raise entry.place.error(f"'{op}' stands in '{written[op]}' already; write it once")
            found[op], written[op] = entry, key
    return Entry(operators.place, Fields(found, operators.value.place))


def _over(base: Mapping[str, Entry], own: Mapping[str, Entry]) -> dict[str, Entry]:
    merged = dict(base)
    for key, entry in own.items():
        below = merged.get(key)
        if is_null(entry.value):
            merged.pop(key, None)
        elif key in _BY_LINE and below is not None:
            merged[key] = Entry(entry.place, _lines_over(below.value, entry.value))
        else:
            merged[key] = entry
    return merged


def _lines_over(base: Node, own: Node) -> Node:
    if not (isinstance(base, Fields) and isinstance(own, Fields)):
        return own
    lines = {key: entry for key, entry in base.entries.items() if key not in own.entries}
    return Fields(lines | {key: entry for key, entry in own.entries.items() if not is_null(entry.value)}, own.place)
