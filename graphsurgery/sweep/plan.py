"""A sweep's file, and the jobs that it stands for: recipes and models, times targets, times variants.

    recipes: [shapes, {recipe: my.yaml, weights: "random:0"}]
    models: [zoo/*.onnx, "torchvision:retinanet_resnet50_fpn_v2"]
    targets: [qnn-htp, rk3588]
    variants: [int8]
    set: [capture.samples=3]
    seconds: 1800
    memory_mb: 8000

A model gets a recipe by `new-recipe`, so it needs a target. Paths are relative to the file. Where a recipe is taken to
several targets and its parts don't depend on them, one job makes the parts, and for each target another looks at these.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from graphsurgery.errors import InputError
from graphsurgery.recipe.layers import find_recipe, override_from
from graphsurgery.recipe.load import Recipe, load_recipe
from graphsurgery.recipe.section import Section
from graphsurgery.rewrite.registry import Registry
from graphsurgery.strict_yaml.positions import Fields, Place, plain, read_yaml
from graphsurgery.strict_yaml.validate import check_keys, validate
from graphsurgery.sweep.job import PARTS, SUPPORT, Job, Limits
from graphsurgery.targets.find import find_target
from graphsurgery.targets.layers import load_tree
from graphsurgery.targets.load import load_target
from graphsurgery.version import __version__

_YAML = (".yaml", ".yml")
_MODEL_KINDS = ("torchvision", "demo")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.@+-]+")
# where a job's commands write, in its folder
_PROPOSED = "recipe.yaml"
_PLACES = ("--out", PARTS, "--model-io", "model_io")


class RecipeKeys(Section):
    """A recipe of the sweep, with what is said of it alone."""

    recipe: str
    weights: str | None = None
    images: Path | None = None
    set: tuple[str, ...] = ()


class ModelKeys(Section):
    """A model of the sweep, or several by a pattern, with what is said of them alone."""

    model: str
    weights: str | None = None
    images: Path | None = None
    set: tuple[str, ...] = ()


class SweepKeys(Section):
    """The keys of a sweep's file. `seconds` and `memory_mb`, 10^6 bytes, limit each job."""

    recipes: tuple[str | RecipeKeys, ...] = ()
    models: tuple[str | ModelKeys, ...] = ()
    targets: tuple[str, ...] = ()
    variants: Literal["all"] | tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    seconds: Annotated[float, Field(gt=0)] = 3600.0
    memory_mb: Annotated[int, Field(gt=0)] = 16_000


@dataclass(frozen=True)
class _Target:
    """A target as commands name it, a name or the whole path of a file, and all that tells what it takes."""

    name: str
    told: Any


_NO_TARGET = _Target("", None)


def read_jobs(file: Path, registry: Registry, plugins: Sequence[Path] = ()) -> list[Job]:
    """Return the jobs of a sweep's file, in its order. All that they name is read once, so that mistakes come first.

    Raises RecipeError, which begins with file and line, for a mistake in the file; InputError for a recipe, a target, a
    variant or a model that isn't there, and for two jobs of one name.
    """
    keys = _read(file)
    folder = file.resolve().parent
    targets = [_target(name, folder, registry) for name in keys.targets]
    jobs: list[Job] = []
    for each in keys.recipes:
        entry = RecipeKeys(recipe=each) if isinstance(each, str) else each
        jobs += _jobs_of_recipe(entry, keys, targets, folder, registry)
    for model in keys.models:
        held = ModelKeys(model=model) if isinstance(model, str) else model
        if not targets:
            raise InputError(
                f"{file}: models: a recipe for '{held.model}' needs a target; name one: targets: [qnn-htp]"
            )
        jobs += _jobs_of_model(held, keys, targets, folder)
    if not jobs:
        raise InputError(f"{file}: it names no recipe and no model; give recipes: or models:")
    made = {job.variant for job in jobs}
    for variant in () if keys.variants == "all" else keys.variants:
        if variant not in made:
            raise InputError(f"{file}: variants: no recipe of the sweep has a variant '{variant}'")
    _require_names_of_their_own(jobs, file)
    return [_with_plugins(job, plugins) for job in jobs] if plugins else jobs


def _read(file: Path) -> SweepKeys:
    root = read_yaml(file, str(file))
    if not isinstance(root, Fields):
        raise InputError(f"{file}: a sweep is a mapping that has recipes: or models:")
    check_keys(root, SweepKeys.model_fields, "")
    keys: SweepKeys = validate(SweepKeys, root, "the sweep", Place(str(file), 1, file.parent))
    return keys


def _target(name: str, folder: Path, registry: Registry) -> _Target:
    """Return a target that the sweep names. Raises InputError for one that can't be used."""
    whole = str(folder / name) if name.lower().endswith(_YAML) else name
    named = load_target(whole, registry)
    _, path, shown = find_target(whole)
    return _Target(whole, [plain(load_tree(path, shown)), named.measured and _stamp(named.measured)])


def _jobs_of_recipe(
    entry: RecipeKeys, keys: SweepKeys, targets: Sequence[_Target], folder: Path, registry: Registry
) -> Iterator[Job]:
    path, _ = find_recipe(entry.recipe, beside=folder)
    name = str(path.resolve()) if entry.recipe.lower().endswith(_YAML) else entry.recipe
    weights = _weights(entry, folder)
    limits = Limits(keys.seconds, keys.memory_mb)

    def read(*own: str) -> tuple[Recipe, list[str]]:
        overrides = [*_overrides(keys, entry, folder), *own]
        return load_recipe(name, overrides, registry=registry, weights=weights), overrides

    def made(target: _Target, recipe: Recipe, overrides: Sequence[str]) -> Iterator[Job]:
        source = recipe.source
        files = [source.folder / name for name in (source.name, source.weights) if name]
        made_of = [recipe.to_json(), target.told, *map(_stamp, files)]
        for variant in ("", *_variants(recipe, keys)):
            wanted = ("--variant", variant) if variant else ("--no-variants",)
            command = ("apply", name, *_changes(weights, overrides), *_images(entry, folder), *wanted, *_PLACES)
            yield Job(
                _name(path.stem, target.name, variant),
                _shown(entry.recipe),
                _shown(target.name) or None,
                variant or None,
                (command,),
                _key(made_of, command),
                limits,
            )

    if not targets:
        yield from made(_NO_TARGET, *read())
    elif len(targets) == 1 or _depends_on_target(read(f"target={targets[0].name}")[0]):
        for target in targets:
            yield from made(target, *read(f"target={target.name}"))
    else:
        own, overrides = read()
        for job in made(_NO_TARGET, *(read("target=") if own.target is not None else (own, overrides))):
            yield job
            for target in targets:
                yield _looking_at(job, _name(path.stem, target.name, job.variant or ""), target)


def _depends_on_target(recipe: Recipe) -> bool:
    """Whether the parts of a recipe are others for another target, or its variants name precisions of this one."""
    cut_by_target = recipe.partition is not None and recipe.partition.by is not None
    return cut_by_target or any(variant.precision is not None for variant in recipe.variants)


def _looking_at(job: Job, name: str, target: _Target) -> Job:
    """Return the job that holds the parts of another against a target."""
    parts = "/".join(["..", job.name, PARTS, *([job.variant] if job.variant else ())])
    command = ("support", parts, "--target", target.name, "--certify", "--json", SUPPORT)
    return replace(
        job,
        name=name,
        target=_shown(target.name),
        commands=(command,),
        key=_key([job.key, target.told], command),
        parts_of=job.name,
    )


def _jobs_of_model(entry: ModelKeys, keys: SweepKeys, targets: Sequence[_Target], folder: Path) -> Iterator[Job]:
    changes = _changes(_weights(entry, folder), _overrides(keys, entry, folder))
    run = ("apply", _PROPOSED, *_images(entry, folder), "--no-variants", *_PLACES)
    for model in _models(entry.model, folder):
        for target in targets:
            propose = ("new-recipe", model, "--target", target.name, *changes, "-o", _PROPOSED)
            yield Job(
                _name(Path(model).stem, target.name, ""),
                _shown(model),
                _shown(target.name),
                None,
                (propose, run),
                _key([_stamp(Path(model)), target.told], propose, run),
                Limits(keys.seconds, keys.memory_mb),
            )


def _changes(weights: str | None, overrides: Sequence[str]) -> list[str]:
    """Return the options of what is changed of a recipe."""
    return [*(("--weights", weights) if weights else ()), *(each for value in overrides for each in ("--set", value))]


def _overrides(keys: SweepKeys, entry: RecipeKeys | ModelKeys, folder: Path) -> list[str]:
    """Return what is set, for all and for one, with whole paths: a job runs in a folder of its own."""
    return [override_from(folder, value) for value in (*keys.set, *entry.set)]


def _weights(entry: RecipeKeys | ModelKeys, folder: Path) -> str | None:
    """Return the weights as a command takes them: a file of the sweep's folder by its whole path."""
    return str(folder / entry.weights) if entry.weights and (folder / entry.weights).is_file() else entry.weights


def _images(entry: RecipeKeys | ModelKeys, folder: Path) -> tuple[str, ...]:
    return ("--images", str(folder / entry.images)) if entry.images else ()


def _variants(recipe: Recipe, keys: SweepKeys) -> list[str]:
    there = [variant.name for variant in recipe.variants]
    return there if keys.variants == "all" else [name for name in keys.variants if name in there]


def _models(pattern: str, folder: Path) -> list[str]:
    """Return a model of torchvision or the demo as it is written, else the files that a pattern fits, sorted."""
    kind, _, name = pattern.partition(":")
    if kind in _MODEL_KINDS and name:
        return [pattern]
    at = Path(pattern)  # a pattern with a root isn't one of `folder`
    found = sorted(
        map(str, Path(at.anchor).glob(str(at.relative_to(at.anchor))) if at.anchor else folder.glob(pattern))
    )
    if not found:
        raise InputError(f"models: no file fits {pattern} in {folder}; a detector of torchvision is torchvision:NAME")
    return found


def _stamp(file: Path) -> Any:
    """Return what tells a file from the one that was there before: its size and when it was written."""
    status = file.stat() if file.is_file() else None
    return [str(file), status and status.st_size, status and status.st_mtime_ns]


def _key(made_of: Any, *commands: Sequence[str]) -> str:
    """Return what a job's result depends on, as far as it can be told before: a job whose key differs is run again."""
    told = json.dumps([__version__, made_of, commands], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()


def _shown(text: str) -> str:
    """Return how a table shows what may be a path: the file's name."""
    return Path(text).name


def _name(stem: str, target: str, variant: str) -> str:
    """Return a job's name, which is that of its folder."""
    named = "@".join([stem, *([Path(target).stem] if target else ())]) + (f"+{variant}" if variant else "")
    return _NOT_IN_NAMES.sub("_", named)


def _require_names_of_their_own(jobs: Sequence[Job], file: Path) -> None:
    seen: dict[str, Job] = {}
    for job in jobs:
        other = seen.setdefault(job.name.casefold(), job)
        if other is not job:
            raise InputError(
                f"{file}: two jobs are called '{job.name}', of {other.subject} and {job.subject}; rename one"
            )


def _with_plugins(job: Job, plugins: Sequence[Path]) -> Job:
    options = tuple(option for plugin in plugins for option in ("--plugin", str(plugin.resolve())))
    commands = tuple((*command, *options) for command in job.commands)
    return replace(job, commands=commands, key=_key([job.key, *map(_stamp, plugins)]))
