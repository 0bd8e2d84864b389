"""Which settings are tried: optuna asks, in batches of one size, so that nothing depends on who is ready first."""

from __future__ import annotations

import importlib
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from graphsurgery.errors import missing_extra
from graphsurgery.quantize.bit_operations import Work
from graphsurgery.recipe.search import Search
from graphsurgery.search.space import Setting, Space

# settings that are asked for before the first of them is answered
TOGETHER = 8
NO_WORK = Work()


@dataclass(frozen=True)
class Trial:
    """A setting and what came of it: dB of the worst output of its parts, what these cost, bytes of their files.

    `failed` says why there is nothing of it.
    """

    number: int
    setting: Setting
    sqnr_db: float = 0.0
    work: Work = NO_WORK
    bytes: int = 0
    failed: str | None = None


Judge = Callable[[Sequence[tuple[int, Setting]]], Sequence[Trial]]


def require_optuna() -> ModuleType:
    """Return optuna. Raises MissingTool where it isn't installed."""
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise missing_extra("optuna", "search", "the search of a variant") from error


def trials(space: Space, search: Search, judge: Judge) -> Iterator[Trial]:
    """Yield what came of each setting that is tried, in the order in which they were asked for.

    `judge` does a batch of them. All settings are tried where there are no more than `search.trials`. Raises
    MissingTool without optuna.
    """
    optuna = require_optuna()
    total = min(search.trials, space.size)
    with _quiet(optuna):
        sampler = optuna.samplers.TPESampler(seed=search.seed, multivariate=True, constant_liar=True)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        if space.size <= search.trials:
            for setting in itertools.product(*(range(len(choice)) for choice in space.choices)):
                study.enqueue_trial(_parameters(space, setting))
        else:
            study.enqueue_trial(_parameters(space, space.first))
        for begin in range(0, total, TOGETHER):
            asked = [study.ask() for _ in range(min(TOGETHER, total - begin))]
            settings = [_suggested(each, space) for each in asked]
            found = judge(list(enumerate(settings, start=begin + 1)))
            for each, trial in zip(asked, found, strict=True):
                if trial.failed is None:
                    study.tell(each, (trial.sqnr_db, trial.work.share))
                else:
                    study.tell(each, state=optuna.trial.TrialState.FAIL)
            yield from found


def front(found: Sequence[Trial]) -> list[Trial]:
    """Return the trials that no other beats in both quality and cost, the cheapest first; of equals the first."""
    best: list[Trial] = []
    for trial in sorted((each for each in found if each.failed is None), key=_by_cost):
        if not best or trial.sqnr_db > best[-1].sqnr_db:
            best.append(trial)
    return best


def _by_cost(trial: Trial) -> tuple[float, float, int, int]:
    return trial.work.share, -trial.sqnr_db, trial.bytes, trial.number


def _names(space: Space) -> list[str]:
    return [f"{choice.part}/{choice.place}/{choice.option}" for choice in space.choices]


def _parameters(space: Space, setting: Setting) -> dict[str, int]:
    return dict(zip(_names(space), setting, strict=True))


def _suggested(asked: Any, space: Space) -> Setting:
    picked = []
    for name, choice in zip(_names(space), space.choices, strict=True):
        if choice.worst is None:
            picked.append(asked.suggest_categorical(name, tuple(range(len(choice)))))
        else:
            picked.append(asked.suggest_int(name, 0, choice.worst))
    return tuple(picked)


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Keep optuna's words off standard error: what its samplers say of themselves is no matter of the user."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
