"""`target` in a recipe: a word, a mapping, a file of one's own, and each mistake at its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphsurgery.errors import RecipeError
from graphsurgery.recipe.load import Recipe, load_recipe
from graphsurgery.rewrite.registry import discover

MINE = """\
title: Mine
sources: {guide: {title: A guide, date: 2026-01-01, basis: document}}
source: guide
precisions: [int8, float16]
others: cpu
operators: {Conv: {kernel: 1..3}}
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()
    Path("recipes", "mine.yaml").write_text(MINE, encoding="utf-8")


def load(text: str) -> Recipe:
    Path("recipes", "x.yaml").write_text(f"source: {{demo: shapes}}\n{text}\n", encoding="utf-8")
    return load_recipe("recipes/x.yaml", registry=discover())


def test_a_word_names_a_target_in_its_usual_precision() -> None:
    target = load("target: rk3588").target
    assert target is not None
    assert (target.target.name, target.precision) == ("rk3588", target.target.target.precisions[0])
    assert load("").target is None


def test_a_file_lies_beside_the_recipe() -> None:
    target = load("target: {name: mine.yaml, precision: float16}").target
    assert target is not None
    assert (target.target.name, target.precision) == ("mine", "float16")


def test_a_variant_may_have_another_precision() -> None:
    recipe = load("target: mine.yaml\nvariants: {small: {precision: float16}, other: {}}")
    assert [variant.precision for variant in recipe.variants] == ["float16", None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "target: rk3589",
            "x.yaml:2: target.name: unknown target 'rk3589'; a file of your own ends in .yaml. Nearest: rk3588",
        ),
        (
            "target: {name: rk3588, precision: int4}",
            "x.yaml:2: target.precision: target 'rk3588' has no precision",
        ),
        ("target: {precision: int8}", "x.yaml:2: target lacks 'name'"),
        ("target: no.yaml", "no.yaml: "),
        (
            "variants: {a: {precision: int8}}",
            "x.yaml:2: variants.a.precision is one of a target's, and the recipe has none",
        ),
        ("target: mine.yaml\nvariants: {a: {precision: int4}}", "x.yaml:3: variants.a.precision: target 'mine' has no"),
    ],
)
def test_a_mistake_is_told_at_its_line(text: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(text)
    assert said in str(caught.value)


PARTS = "parts: {head: npu, rest: cpu}"


def test_the_target_may_say_where_to_cut() -> None:
    recipe = load(f"target: mine.yaml\npartition: {{by: target, smallest: 1000, {PARTS}}}")
    assert recipe.partition is not None
    assert (recipe.partition.by, recipe.partition.smallest, recipe.partition.at) == ("target", 1000, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"partition: {{by: target, {PARTS}}}", "x.yaml:2: partition.by: target needs the recipe's target; name it"),
        (f"target: mine.yaml\npartition: {{{PARTS}}}", "x.yaml:3: partition lacks 'at', which says where to cut, or"),
        (
            f"target: mine.yaml\npartition: {{at: R, by: target, {PARTS}}}",
            "x.yaml:3: partition.by contradicts partition.at",
        ),
        (f"target: mine.yaml\npartition: {{by: me, {PARTS}}}", "x.yaml:3: partition.by should be 'target', got 'me'"),
    ],
)
def test_a_cut_is_at_something_or_by_the_target(text: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(text)
    assert said in str(caught.value)


def test_a_mistake_in_the_target_is_told_at_the_line_of_its_file() -> None:
    Path("recipes", "mine.yaml").write_text(MINE.replace("Conv", "Cnov"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"mine\.yaml:6: 'Cnov' is no operator of ONNX.* Did you mean 'Conv'"):
        load("target: mine.yaml")
