"""One merged tree out of a recipe, the recipes it extends, and what the command line overrides.

How a recipe is laid over the one it extends:

- mappings merge key by key, the extending recipe's keys first; lists and single values replace
- `partition.parts`, `partition.include` and `part_passes` replace as a whole, since together they name all parts
- a `source` that names a model (torchvision, demo or onnx) drops the inherited model and the inherited weights
- a key without a value (`evaluate:`) removes what was inherited under that key
- a word for `image` or `detections` is a mapping with that `preset`, for `target` one with that `name`

`--set a.b=c` sets the one value at that path, where numbers count list items from 0; `--set a.b=` removes it.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphsurgery.devices.choices import with_paths_in
from graphsurgery.errors import RecipeError, did_you_mean
from graphsurgery.recipe.schema import IsModel, IsPath, IsReplaced, MayBeWord, marked
from graphsurgery.strict_yaml.positions import (
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
    read_yaml,
)

# each is one of those that SourceSpec.kind lists
SOURCE_KINDS: tuple[Any, ...] = tuple(key for (_, key), _ in marked(IsModel))

_SUFFIXES = (".yaml", ".yml")
_REPLACED_WHOLE = {path for path, _ in marked(IsReplaced)}
_WORDS = {path[0]: mark.key for path, mark in marked(MayBeWord)}
_MAX_EXTENDS = 20
_PATHS = dict(marked(IsPath))


def packaged_recipes() -> dict[str, Path]:
    """The recipes that come with graphsurgery: name -> file, sorted by name."""
    folder = importlib.resources.files("graphsurgery.recipes")
    files = [Path(str(entry)) for entry in folder.iterdir()]
    return {file.stem: file for file in sorted(files) if file.suffix in _SUFFIXES}


def find_recipe(name_or_path: str, beside: Path | None = None) -> tuple[Path, str]:
    """The file of a recipe, and how messages show it: as given, or relative to the working directory.

    What ends in .yaml or .yml is a path, relative to the folder `beside` if that is given; everything else is the
    name of a packaged recipe. Raises RecipeError if there is no such recipe.
    """
    recipes = packaged_recipes()
    if name_or_path.lower().endswith(_SUFFIXES):
        path = Path(name_or_path) if beside is None else beside / name_or_path
        if path.is_file():
            return path, name_or_path if beside is None else _shown(path)
        stem = Path(name_or_path).stem
        advice = f"for the recipe that comes with graphsurgery write {stem}" if stem in recipes else "check the path"
        raise RecipeError(f"{name_or_path}: there is no such recipe file{_in(beside)}; {advice}")
    if name_or_path in recipes:
        return recipes[name_or_path], _shown(recipes[name_or_path])
    raise RecipeError(
        f"unknown recipe {quoted(name_or_path)}.{did_you_mean(name_or_path, recipes)} "
        f"There are {', '.join(recipes)}; a recipe file of your own is given by a path that ends in .yaml"
    )


def load_tree(path: Path, shown: str, overrides: Sequence[str] = (), weights: str | None = None) -> Fields:
    """Read the recipe at `path`, lay it over what it extends, then apply each `--set` and `--weights` in order.

    Raises RecipeError with the place at fault.
    """
    tree = _with_extended(path, shown, ())
    for override in overrides:
        tree = _override(tree, override)
    if weights is not None:
        place = Place("--weights", None, Path.cwd())
        tree = _set(tree, ["source", "weights"], Scalar(weights, place))
    resolved = _with_absolute_paths(tree)
    assert isinstance(resolved, Fields)
    return resolved


def override_from(folder: Path, override: str) -> str:
    """Return a `--set` whose paths are relative to `folder` as one that says the same in any working directory.

    Raises RecipeError for one that is no `path.to.key=value`.
    """
    tree = _override(Fields({}, Place("--set", None, folder)), override, folder)
    before, after = plain(tree), plain(_with_absolute_paths(tree))
    if before == after:
        return override
    path = override.partition("=")[0]
    for key in path.strip().split("."):
        after = after[key]
    return f"{path}={json.dumps(after, ensure_ascii=False)}"


def _shown(path: Path) -> str:
    resolved, here = path.resolve(), Path.cwd().resolve()
    return str(resolved.relative_to(here) if resolved.is_relative_to(here) else resolved)


def _in(folder: Path | None) -> str:
    return "" if folder is None else f" in {folder}"


def _with_extended(path: Path, shown: str, below: tuple[Path, ...]) -> Fields:
    """Read the file and merge it over what it extends; `below` are the files that extend this one, resolved."""
    root = read_yaml(path, shown)
    if is_null(root):
        raise RecipeError(f"{shown}:1: the file holds nothing; a recipe has at least a source, or extends another")
    if not isinstance(root, Fields):
        raise root.place.error("a recipe is a mapping that starts with source: or extends:")
    root = _with_words_spelled_out(root)
    extends = root.entries.get("extends")
    if extends is None:
        return root
    name, place = extends.value, extends.value.place
    if not (isinstance(name, Scalar) and isinstance(name.value, str)):
        raise place.error("extends should be the name of a recipe, or a path that ends in .yaml")
    try:
        base_path, base_shown = find_recipe(name.value, beside=place.folder)
    except RecipeError as error:
        raise place.error(f"extends: {error}") from error
    chain = (*below, path.resolve())
    if base_path.resolve() in chain:
        raise place.error(f"extends {quoted(name.value)} leads back to {base_shown}; a recipe can't extend itself")
    if len(chain) > _MAX_EXTENDS:
        raise place.error(f"more than {_MAX_EXTENDS} recipes extend one another")
    base = _with_extended(base_path, base_shown, chain)
    own = {key: entry for key, entry in root.entries.items() if key != "extends"}
    return _merge_fields(base, Fields(own, root.place), ())


def _with_words_spelled_out(tree: Fields) -> Fields:
    """Return the tree with `{preset: word}`, or the like, in place of a word, so that more can be laid over it."""
    entries = dict(tree.entries)
    for key in _WORDS.keys() & set(entries):
        value = entries[key].value
        if isinstance(value, Scalar) and isinstance(value.value, str):
            entries[key] = Entry(entries[key].place, Fields({_WORDS[key]: Entry(value.place, value)}, value.place))
    return Fields(entries, tree.place)


def _merge(base: Node, over: Node, path: tuple[str, ...]) -> Node:
    if path in _REPLACED_WHOLE or not (isinstance(base, Fields) and isinstance(over, Fields)):
        return over
    return _merge_fields(base, over, path)


def _merge_fields(base: Fields, over: Fields, path: tuple[str, ...]) -> Fields:
    names_model = path == ("source",) and any(kind in over.entries for kind in SOURCE_KINDS)
    inherited = _without_model(base.entries) if names_model else base.entries
    merged: dict[str, Entry] = {}
    for key, entry in over.entries.items():
        if key not in base.entries:
            merged[key] = entry
        elif not is_null(entry.value):
            value = _merge(base.entries[key].value, entry.value, (*path, key))
            merged[key] = Entry(entry.place, value)
    for key, entry in inherited.items():
        if key not in over.entries:
            merged[key] = entry
    return Fields(merged, over.place)


def _without_model(source: Mapping[str, Entry]) -> dict[str, Entry]:
    return {key: entry for key, entry in source.items() if key not in (*SOURCE_KINDS, "weights")}


def _override(tree: Fields, override: str, folder: Path | None = None) -> Fields:
    place = Place(f"--set {' '.join(override.split())}", None, folder or Path.cwd())
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise place.error("write it as --set path.to.key=value")
    if keys[0] == "extends":
        raise place.error("extends can't be set; write a recipe file that extends the other")
    return _with_words_spelled_out(_set(tree, keys, parse_yaml(text, place)))


def _set(tree: Fields, keys: list[str], value: Node) -> Fields:
    entries = dict(tree.entries)
    _set_entry(entries, keys, 0, value)
    return Fields(entries, tree.place)


def _set_entry(entries: dict[str, Entry], keys: list[str], depth: int, value: Node) -> None:
    """Set `value` in the mapping `entries`, which stands under keys[:depth]."""
    key, is_last = keys[depth], depth == len(keys) - 1
    old = entries.get(key)
    if is_last and old is not None and is_null(value):
        del entries[key]
        return
    if is_last and keys[:depth] == ["source"] and key in SOURCE_KINDS:
        for other in (*SOURCE_KINDS, "weights"):
            # What another --set has put there is meant to stay.
            if other != key and other in entries and entries[other].place.line is not None:
                del entries[other]
    new = _set_below(old.value if old else None, keys, depth + 1, value)
    entries[key] = Entry(value.place if is_last or old is None else old.place, new)


def _set_below(node: Node | None, keys: list[str], depth: int, value: Node) -> Node:
    """Return `node`, which stands under keys[:depth], with `value` set at the rest of the path."""
    if depth == len(keys):
        return value
    path = ".".join(keys[:depth])
    if isinstance(node, Items):
        index = _index(keys[depth], len(node.items))
        if index is None:
            raise value.place.error(
                f"{path} is a list of {len(node.items)} and has no position {quoted(keys[depth])}; "
                "positions count from 0"
            )
        item = _set_below(node.items[index], keys, depth + 1, value)
        return Items((*node.items[:index], item, *node.items[index + 1 :]), node.place)
    if node is None or is_null(node):
        node = Fields({}, value.place)
    if not isinstance(node, Fields):
        raise value.place.error(f"{path} is the single value {quoted(node.value)}; nothing can be set below it")
    entries = dict(node.entries)
    _set_entry(entries, keys, depth, value)
    return Fields(entries, node.place)


def _index(key: str, length: int) -> int | None:
    return next((index for index in range(length) if str(index) == key), None)


def _with_absolute_paths(node: Node, key: tuple[str, ...] = ()) -> Node:
    """Resolve every path in the node behind `key` against the folder of the file in which it stands."""
    if isinstance(node, Fields):
        entries = node.entries.items()
        resolved = {
            name: Entry(entry.place, _with_absolute_paths(entry.value, (*key, name))) for name, entry in entries
        }
        return Fields(resolved, node.place)
    if key[:1] + key[2:3] == ("variants", "devices") and isinstance(node, Scalar) and isinstance(node.value, str):
        return Scalar(with_paths_in(node.place.folder, node.value), node.place)
    mark = _PATHS.get(key)
    if mark and isinstance(node, Scalar) and isinstance(node.value, str) and re.search(mark.pattern, node.value):
        return Scalar(str(node.place.folder / node.value), node.place)
    return node
