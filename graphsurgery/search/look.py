"""A search from its choices to the setting that is taken, with a folder that holds what was found on the way.

FOLDER/found.jsonl    what attempts gave, so that the same search goes on where it stopped
FOLDER/search.json    every setting that was tried, the Pareto front, and the one that was chosen
FOLDER/recipe.yaml    a recipe that extends the one of the search: the variant with the chosen setting
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphsurgery import files
from graphsurgery.capture.samples import Sample
from graphsurgery.errors import Difference, InputError
from graphsurgery.files.temporary import reserved, written_whole
from graphsurgery.parts.part import Part
from graphsurgery.progress import Progress, silent
from graphsurgery.quantize.bit_operations import Work
from graphsurgery.recipe.layers import packaged_recipes
from graphsurgery.recipe.pass_use import PassUse
from graphsurgery.recipe.search import Search
from graphsurgery.report.recipe_text import as_yaml
from graphsurgery.search.attempt import Attempt, Found, Material, Use, written_options
from graphsurgery.search.material import written
from graphsurgery.search.run import Runner
from graphsurgery.search.space import PartPasses, Setting, Space
from graphsurgery.search.store import Store
from graphsurgery.search.study import Trial, front, require_optuna, trials

RESULT, RECIPE = "search.json", "recipe.yaml"

Dropped = Callable[[PartPasses], float]


@dataclass(frozen=True)
class Chosen:
    """The passes of the setting that was taken, and the whole search as run.json has it."""

    part_passes: PartPasses
    record: Mapping[str, Any]


@dataclass
class _Looking:
    search: Search
    material: Mapping[str, Material]
    run: Runner
    store: Store
    told: dict[str, Found] = field(default_factory=dict)

    def attempt(self, part: str, uses: Sequence[PassUse]) -> Attempt:
        passes = tuple(Use.of(use) for use in uses)
        return Attempt(self.material[part], passes, self.search.seconds, self.search.memory_mb)

    def found(self, attempts: Sequence[Attempt]) -> list[Found]:
        """Return what attempts gave: those that the store hasn't are done, each once."""
        missing = {each.key: each for each in attempts if self.store.get(each) is None}
        if missing:
            for attempt, found in self.run(list(missing.values())):
                self.store.add(attempt, found)
        return [self._kept(each) for each in attempts]

    def _kept(self, attempt: Attempt) -> Found:
        found = self.store.get(attempt)
        assert found is not None
        return found


def look(
    search: Search,
    part_passes: PartPasses,
    parts: Sequence[Part],
    samples: Sequence[Sample],
    folder: Path,
    run: Runner,
    *,
    dropped: Dropped | None = None,
    progress: Progress = silent,
) -> Chosen:
    """Try settings of the passes on the parts, and return the cheapest that keeps what the search asks for.

    `dropped` says how much AP is lost with such passes, where that counts. What is found is kept in `folder`. Raises
    Difference where no setting keeps it, MissingTool without optuna, InputError where no layer can be ranked.
    """
    require_optuna()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with reserved(folder) as place:
            wanted = [part for part in parts if part.name in part_passes]
            looking = _Looking(search, written(wanted, samples, place), run, Store(folder))
            space = Space(search.choices, part_passes)
            space = Space(search.choices, part_passes, _ranked(space, looking))
            done = []
            for trial in trials(space, search, lambda asked: _judged(space, looking, asked)):
                done.append(trial)
                progress(len(done), min(search.trials, space.size))
    except OSError as error:
        raise InputError(f"{folder}: can't be written ({files.reason(error)}); make room and run again") from error
    best = front(done)
    drops: dict[int, float] = {}
    chosen = _first_that_keeps(search, best, space, dropped, drops)
    record = _record(search, space, done, best, chosen, drops)
    _save(folder / RESULT, json.dumps(record, indent=1) + "\n")
    if chosen is None:
        raise Difference(_nothing_keeps(search, done, best, drops, folder))
    return Chosen(space.passes(chosen.setting), record)


def _ranked(space: Space, looking: _Looking) -> dict[tuple[str, int], tuple[str, ...]]:
    asked = space.to_rank()
    found = looking.found([looking.attempt(part, uses) for (part, _), uses in asked.items()])
    for (part, place), each in zip(asked, found, strict=True):
        if each.failed is not None:
            name = space.part_passes[part][place].name
            raise InputError(f"search: part '{part}': its layers can't be ranked by pass '{name}': {each.failed}")
    return {where: each.layers for where, each in zip(asked, found, strict=True)}


def _judged(space: Space, looking: _Looking, asked: Sequence[tuple[int, Setting]]) -> list[Trial]:
    """Do a batch of trials; parts that several of them have in common are done once."""
    attempts: dict[int, dict[str, Attempt]] = {}
    refused: dict[int, str] = {}
    for number, setting in asked:
        try:
            passes = space.passes(setting)
        except InputError as error:
            refused[number] = str(error)
            continue
        attempts[number] = {part: looking.attempt(part, uses) for part, uses in passes.items()}
    flat = [attempt for each in attempts.values() for attempt in each.values()]
    known = {attempt.key: found for attempt, found in zip(flat, looking.found(flat), strict=True)}
    return [
        Trial(number, setting, failed=refused[number])
        if number in refused
        else _trial(number, setting, {part: known[each.key] for part, each in attempts[number].items()})
        for number, setting in asked
    ]


def _trial(number: int, setting: Setting, found: Mapping[str, Found]) -> Trial:
    for part, each in found.items():
        if each.failed is not None:
            return Trial(number, setting, failed=f"{part}: {each.failed}")
    work = Work()
    for each in found.values():
        work += Work(each.multiply_adds, each.in_integers, each.bit_operations)
    worst = min(each.worst for each in found.values())
    return Trial(number, setting, worst, work, sum(each.bytes for each in found.values()))


def _first_that_keeps(
    search: Search, best: Sequence[Trial], space: Space, dropped: Dropped | None, drops: dict[int, float]
) -> Trial | None:
    for trial in best:
        if trial.sqnr_db < search.sqnr:
            continue
        if search.max_ap_drop is None or dropped is None:
            return trial
        drops[trial.number] = dropped(space.passes(trial.setting))
        if drops[trial.number] <= search.max_ap_drop:
            return trial
    return None


def _record(
    search: Search,
    space: Space,
    done: Sequence[Trial],
    best: Sequence[Trial],
    chosen: Trial | None,
    drops: Mapping[int, float],
) -> dict[str, Any]:
    optimal = {trial.number for trial in best}
    rows = []
    for trial in done:
        row: dict[str, Any] = {"number": trial.number, "setting": space.told(trial.setting)}
        if trial.failed is None:
            row |= {
                "sqnr_db": trial.sqnr_db,
                "cost": round(trial.work.share, 6),
                "in_integers": round(trial.work.in_integers / max(trial.work.multiply_adds, 1), 6),
                "bytes": trial.bytes,
                "front": trial.number in optimal,
            }
        else:
            row["failed"] = trial.failed
        if trial.number in drops:
            row["ap_drop"] = round(drops[trial.number], 6)
        rows.append(row)
    return {
        "sqnr": search.sqnr,
        "max_ap_drop": search.max_ap_drop,
        "seed": search.seed,
        "settings": space.size,
        "optuna": str(require_optuna().__version__),
        "trials": rows,
        "chosen": None if chosen is None else chosen.number,
    }


def _nothing_keeps(
    search: Search, done: Sequence[Trial], best: Sequence[Trial], drops: Mapping[int, float], folder: Path
) -> str:
    seen = f"none of the {len(done)} settings that were tried"
    where = f"they are in {folder / RESULT}"
    if not best:
        failed = next((trial.failed for trial in done if trial.failed), "")
        return f"search: {seen} can be had: {failed}; {where}"
    if drops:
        return (
            f"search: {seen} keeps {search.sqnr:g} dB and loses no more than {search.max_ap_drop:g} AP: the best of "
            f"{len(drops)} loses {min(drops.values()):.4f}; {where}"
        )
    top = max(best, key=lambda trial: trial.sqnr_db)
    return (
        f"search: {seen} keeps {search.sqnr:g} dB in every output: the best has {top.sqnr_db:.1f}; lower search.sqnr, "
        f"or list other values; {where}"
    )


def write_recipe(folder: Path, recipe: Path, name: str, variant: Mapping[str, Any]) -> Path:
    """Write a recipe that extends that of the search, with `variant` in place of the one that was looked for."""
    packaged = {path.resolve(): known for known, path in packaged_recipes().items()}
    extends = packaged.get(recipe.resolve()) or _beside(recipe.resolve(), folder.resolve())
    head = (
        "# The setting that a search chose, as a variant: name this file, or `extends` it. What --set changed of the\n"
        "# recipe isn't in it.\n"
    )
    text = head + as_yaml({"extends": extends, "variants": {name: {"search": None, **variant}}})
    _save(folder / RECIPE, text)
    return folder / RECIPE


def passes_as_written(part_passes: PartPasses) -> dict[str, list[Any]]:
    """Return passes as a recipe writes them."""
    return {
        part: [{use.name: options} if (options := written_options(use.pass_)) else use.name for use in uses]
        for part, uses in part_passes.items()
    }


def _beside(recipe: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(recipe, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return str(recipe)


def _save(path: Path, text: str) -> None:
    try:
        with written_whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: can't be written ({files.reason(error)}); make room and run again") from error
