"""A recipe's target: parts are held against it, a refusal ends the run, and what a pass brings is named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gate.drawn_recipes import Drawn, NegByMul, Rescale, Tiny, image_of, play

from graphsurgery.capture.samples import Sample
from graphsurgery.errors import InputError
from graphsurgery.recipe.target import ChosenTarget
from graphsurgery.report.run_record import Record
from graphsurgery.rewrite import Pass
from graphsurgery.rewrite.registry import discover
from graphsurgery.targets.load import load_target

HEAD = """\
title: Mine
sources: {guide: {title: A guide, version: 2, date: 2026-01-01, basis: document}}
source: guide
precisions: [int8, float16]
others: cpu
operators:
"""


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="module")
def captured(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("model_io") / "0"
    folder.mkdir()
    for name, value in tiny.computed(image_of(0)).items():
        np.save(folder / f"{name}.npy", value)
    return [Sample("0", folder, None, 8, 8)]


def run(
    tiny: Tiny, captured: Sequence[Sample], folder: Path, operators: str, places: Mapping[str, Sequence[Pass]]
) -> Record:
    """Make the parts of the tiny network for a target with these operators; passes stand at places."""
    (folder / "mine.yaml").write_text(HEAD + operators, encoding="utf-8")
    chosen = ChosenTarget(load_target(str(folder / "mine.yaml"), discover()), "int8")
    recipe = Drawn({place: tuple(passes) for place, passes in places.items()}, None).recipe(True)
    return play(tiny, captured, replace(recipe, target=chosen), folder / "parts")


def test_what_the_target_takes_of_each_part_is_in_the_record(
    tiny: Tiny, captured: list[Sample], tmp_path: Path
) -> None:
    record = run(tiny, captured, tmp_path, "  Conv: {kernel: 2..}\n  MaxPool: taken\n", {})
    assert list(record.support) == ["net"]  # the other part is the host's
    found = record.support["net"]
    assert (found["nodes"], found["nodes_taken"]) == (3, 2)
    assert 0 < found["multiply_adds_taken"] < found["multiply_adds"]
    assert [(left["op"], left["outcome"], left["why"]) for left in found["left"]] == [
        ("Conv", "cpu", "kernel 1, where at least 2 is taken")
    ]
    assert json.loads(json.dumps(record.to_json()))["support"] == record.support


def test_what_the_tool_stops_at_ends_the_run(tiny: Tiny, captured: list[Sample], tmp_path: Path) -> None:
    rule = "  Conv: taken\n  MaxPool: {kernel: 2.., else: refused, fix: [replace-unit-maxpool], at: table 2}\n"
    with pytest.raises(InputError) as caught:
        run(tiny, captured, tmp_path, rule, {})
    said = str(caught.value)
    assert said.startswith("part 'net': node ")
    assert (
        "mine (int8) refuses it: MaxPool, kernel 1, where at least 2 is taken (table 2) "
        "[A guide 2, 2026-01-01 (document)]" in said
    )
    assert said.endswith("; replace-unit-maxpool may help")
    assert not (tmp_path / "parts").exists()


def test_a_pass_that_trades_one_operator_for_another_is_named(
    tiny: Tiny, captured: list[Sample], tmp_path: Path
) -> None:
    places = {"net": [Rescale()], "post": [NegByMul()]}
    record = run(tiny, captured, tmp_path, "  Conv: taken\n  MaxPool: taken\n", places)
    brings = {step.part: list(step.brings) for step in record.passes}
    assert len(brings["net"]) == 1
    assert brings["net"][0].startswith(
        "1 Div more: mine (int8) leaves it to the CPU: Div, the source doesn't list it [A guide 2,"
    )
    assert brings["post"] == []  # on the host anything goes
    everything = run(tiny, captured, tmp_path, "  Conv, MaxPool, Div: taken\n", places)
    assert not any(step.brings for step in everything.passes)
