"""What becomes one box where there are too many nodes."""

from __future__ import annotations

import random
from graphlib import TopologicalSorter

import pytest
from onnx import helper

from graphsurgery.graph.model import Model
from graphsurgery.graph.outline import Outline
from graphsurgery.picture.folds import Fold, fold, predecessors
from picture.graphs import chain


def sizes(folds: list[Fold]) -> list[int]:
    return [len(each.nodes) for each in folds]


def drawn(seed: int, named: bool) -> Outline:
    """Return a graph of 300 nodes at random, whose names tell modules that data flows into and out of again."""
    chance = random.Random(seed)
    nodes, ends = [], ["x"]
    for number in range(300):
        read = [ends[max(0, len(ends) - 1 - int(chance.expovariate(0.3)))] for _ in range(2)]
        name = f"/{chance.choice('abc')}/{chance.choice('de')}/n{number}" if named else ""
        nodes.append(helper.make_node(chance.choice(["Add", "Mul"]), read, [f"t{number}"], name))
        ends.append(f"t{number}")
    info = [helper.make_tensor_value_info(name, 1, [2]) for name in ("x", ends[-1])]
    return Outline(Model(helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:]))))


def test_few_nodes_stay_by_themselves() -> None:
    assert sizes(fold(chain(["a", "b", "c"], ["Relu", "Neg", "Relu"]), 3)) == [1, 1, 1]


def test_modules_become_boxes_by_their_path() -> None:
    names = [f"/{part}/{number}/Relu" for part in ("backbone", "neck", "head") for number in range(20)]
    folds = fold(chain(names, ["Relu"] * 60), 3)
    assert [each.title for each in folds] == ["backbone", "neck", "head"]
    assert sizes(folds) == [20, 20, 20]


def test_the_largest_module_is_opened_first() -> None:
    names = [f"/big/m{number % 4}/Relu{number}" for number in range(0, 40, 4)] + [f"/small/Relu{n}" for n in range(5)]
    names = sorted(names[:10], key=lambda name: name.split("/")[2]) + names[10:]
    folds = fold(chain(names, ["Relu"] * 15), 11)
    assert "small" in [each.title for each in folds]
    assert len(folds) == 11


def test_repeated_blocks_become_a_run() -> None:
    ops = ["Relu", *["Neg", "Abs", "Neg"] * 0, *["Sin"] * 3]
    outline = chain([""] * len(ops), ops)
    assert sum(sizes(fold(outline, 2))) == len(ops)
    repeated = blocks(12)
    (run,) = [each for each in fold(repeated, 4) if "blocks" in each.title]
    assert run.title == "12 blocks of 3 nodes"


def blocks(count: int) -> Outline:
    """Return blocks of Relu, Neg and an Add of what they write with what they read."""
    nodes, end = [helper.make_node("Abs", ["x"], ["t"])], "t"
    for number in range(count):
        a, b, c = (f"{letter}{number}" for letter in "abc")
        nodes.append(helper.make_node("Relu", [end], [a]))
        nodes.append(helper.make_node("Neg", [a], [b]))
        nodes.append(helper.make_node("Add", [b, end], [c]))
        end = c
    info = [helper.make_tensor_value_info(name, 1, [2]) for name in ("x", end)]
    return Outline(Model(helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:]))))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("most", [2, 10, 60])
def test_no_fold_is_left_and_come_back_to_and_no_node_is_lost(named: bool, most: int) -> None:
    for seed in range(5):
        outline = drawn(seed, named)
        folds = fold(outline, most)
        assert len(folds) <= most
        assert sorted(index for each in folds for index in each.nodes) == list(range(300))
        of = {index: number for number, each in enumerate(folds) for index in each.nodes}
        before = predecessors(outline)
        reads = {number: {of[b] for i in each.nodes for b in before[i]} - {number} for number, each in enumerate(folds)}
        list(TopologicalSorter(reads).static_order())  # raises CycleError
