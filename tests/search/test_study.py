"""Which settings are tried, what is on the front, and that neither depends on who did what first."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest

from graphsurgery.errors import MissingTool
from graphsurgery.quantize.bit_operations import Work
from graphsurgery.recipe.load import load_recipe
from graphsurgery.recipe.search import Search
from graphsurgery.rewrite.registry import discover
from graphsurgery.search.space import Setting, Space
from graphsurgery.search.study import TOGETHER, Trial, front, trials

pytest.importorskip("optuna")

RECIPE = """
extends: shapes
evaluate:
variants:
  best:
    part_passes: {{backbone_rpn: [quantize], box_head: [quantize]}}
    search:
      passes:
        quantize: {{activations: [uint8, uint16], method: [minmax, entropy, percentile], exclude: {{worst: 2}}}}
      sqnr: 20
      trials: {trials}
      seed: {seed}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    registry = discover()

    def make(trials: int = 24, seed: int = 0) -> tuple[Search, Space]:
        path = tmp_path_factory.mktemp("recipe") / "r.yaml"
        path.write_text(RECIPE.format(trials=trials, seed=seed), encoding="utf-8")
        variant = next(each for each in load_recipe(str(path), registry=registry).variants if each.name == "best")
        assert variant.search is not None
        ranked = {("backbone_rpn", 0): ["a", "b"], ("box_head", 0): ["c", "d"]}
        return variant.search, Space(variant.search.choices, variant.part_passes, ranked)

    return make


def judge(asked: Sequence[tuple[int, Setting]]) -> list[Trial]:
    """More bits and more float layers are better, and cost more; entropy never works."""
    assert len(asked) <= TOGETHER
    found = []
    for number, setting in asked:
        bits, float_layers = setting[0] + setting[3], setting[2] + setting[5]
        if setting[1] == 1:
            found.append(Trial(number, setting, failed="entropy: no"))
        else:
            db = 20 + 10 * bits + 3 * float_layers + (setting[1] == 2)
            found.append(Trial(number, setting, db, Work(100, 100, 100 * (64 + 64 * bits + 200 * float_layers)), 10))
    return found


def test_the_same_seed_asks_the_same_and_another_one_something_else(made: Any) -> None:
    tried = [list(trials(made(seed=seed)[1], made(seed=seed)[0], judge)) for seed in (0, 0, 1)]
    assert tried[0] == tried[1]
    assert tried[0] != tried[2]
    assert [trial.number for trial in tried[0]] == list(range(1, 25))


def test_what_the_recipe_has_is_tried_first(made: Any) -> None:
    search, space = made(trials=3)
    first, *_ = trials(space, search, judge)
    assert first.setting == (0, 0, 0, 0, 0, 0)


def test_all_settings_are_tried_where_there_are_no_more_than_trials(made: Any) -> None:
    search, space = made(trials=1000)
    assert space.size == (2 * 3 * 3) ** 2
    settings = [trial.setting for trial in trials(space, search, judge)]
    assert len(settings) == len(set(settings)) == space.size


def test_a_search_finds_what_is_cheap_and_good(made: Any) -> None:
    search, space = made(trials=64)
    best = front(list(trials(space, search, judge)))
    # the cheapest of all 324, and no trial that failed
    assert best[0].work.share == 6400 / (100 * 1024)
    assert all(trial.failed is None for trial in best)


def test_the_front_holds_what_no_other_beats() -> None:
    def trial(number: int, db: float, cost: int) -> Trial:
        return Trial(number, (number,), db, Work(1, 1, cost))

    found = [trial(1, 10, 64), trial(2, 30, 128), trial(3, 20, 128), trial(4, 30, 128), trial(5, 25, 512)]
    assert [each.number for each in front([*found, Trial(6, (6,), failed="no")])] == [1, 2]


def test_a_setting_is_passes_with_its_options(made: Any) -> None:
    _, space = made()
    passes = space.passes((1, 2, 1, 0, 0, 2))
    (backbone,), (head,) = passes["backbone_rpn"], passes["box_head"]
    chose = [(use.pass_.activations, use.pass_.method, use.pass_.exclude) for use in (backbone, head)]
    assert chose == [("uint16", "percentile", ("a",)), ("uint8", "minmax", ("c", "d"))]
    assert space.told((1, 2, 1, 0, 0, 2))["box_head: quantize.exclude"] == ["c", "d"]


def test_without_optuna_it_is_a_missing_tool(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    search, space = made()
    with pytest.raises(MissingTool, match=r"needs optuna.*pip install 'graphsurgery\[search\]'"):
        next(trials(space, search, judge))
