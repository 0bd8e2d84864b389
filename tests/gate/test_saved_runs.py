"""Runs that are saved: of whole graphs that a later one tells of, and of the part that the chain begins with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto

from gate.drawn_recipes import Drawn, LoseSign, NegByMul, Rescale, Shift, Tiny, play, uses
from graphsurgery.capture.samples import Sample
from graphsurgery.errors import Difference
from graphsurgery.gate.gate import Gate
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.partition.boundary_names import ExposedGraph
from graphsurgery.parts.manifest import PartEntry
from graphsurgery.passes.drop_identity import DropIdentity
from graphsurgery.passes.replace_silu import ReplaceSilu
from graphsurgery.pipeline import apply
from graphsurgery.pipeline.run import Run
from graphsurgery.recipe.load import CapturePlan, Recipe
from graphsurgery.report.run_record import Record, Step
from graphsurgery.rewrite import Editor, GraphPass, Pass
from graphsurgery.runtime.player import PartPlayer
from graphsurgery.sources import SourceSpec


class TakeBack(GraphPass):
    """Wrong by itself: behind wrong-sign it makes the graph right again."""

    name = "take-back"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        LoseSign().rewrite(graph, edit)


class Watching:
    """What a run says."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def begin(self, what: str) -> None: ...

    def advance(self, done: int, total: int) -> None: ...

    def finished(self, step: Step) -> None:
        self.told.append(f"{step.name} {step.verdict}")


def judged(tiny: Tiny, samples: list[Sample], *passes: Pass) -> tuple[Record, list[str], Difference | None]:
    """Run passes on the whole graph; return its record, what was told, and how it ended."""
    recipe = Recipe(
        name="tiny",
        file=Path("tiny.yaml"),
        source=SourceSpec("onnx", "tiny.onnx"),
        capture=CapturePlan(),
        passes=uses(passes),
        partition=None,
        part_passes={},
        variants=(),
        tolerances=Tolerances.parse({"*": {"relative": 1e-4}}),
        checked_samples=None,
        grants={},
        evaluate=None,
        merged={},
    )
    watching = Watching()
    run = Run(recipe, tiny, samples, Gate(samples, recipe.tolerances, {}), Record({}), watching)
    failed = None
    try:
        unjudged = apply.export(run)
        for use in recipe.passes:
            unjudged = apply.rewrite_whole(run, use, unjudged)
        apply.cut(run, unjudged)
    except Difference as difference:
        failed = difference
    return run.record, watching.told, failed


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The samples that a whole graph was run on."""
    made: list[str] = []
    original = ExposedGraph.run

    def run(self: ExposedGraph, sample: Sample) -> dict[str, np.ndarray]:
        made.append(sample.id)
        return original(self, sample)

    monkeypatch.setattr(ExposedGraph, "run", run)
    return made


def test_graphs_alike_but_for_some_nodes_share_one_run(tiny: Tiny, captured: list[Sample], runs: list[str]) -> None:
    _, told, failed = judged(tiny, captured, NegByMul(), DropIdentity(), ReplaceSilu())
    assert failed is None
    assert told == ["export passed", "neg-by-mul passed", "drop-identity passed", "replace-silu passed"]
    assert sorted(runs) == [sample.id for sample in captured]


def test_a_graph_whose_values_are_others_is_run_by_itself(tiny: Tiny, captured: list[Sample], runs: list[str]) -> None:
    """A weight times 3 and a third of it: as right, but not to the last bit."""
    _, told, failed = judged(tiny, captured, NegByMul(), Rescale())
    assert failed is None
    assert told == ["export passed", "neg-by-mul passed", "rescale passed"]
    assert len(runs) == len(captured) + 2


@pytest.mark.parametrize("behind", [(), (Rescale(),), (Rescale(), TakeBack())], ids=["last", "second last", "third"])
@pytest.mark.parametrize("wrong", [Shift(), LoseSign()], ids=lambda pass_: pass_.name)
def test_the_pass_at_fault_is_named_and_the_record_ends_there(
    tiny: Tiny, captured: list[Sample], wrong: Pass, behind: tuple[Pass, ...]
) -> None:
    record, told, failed = judged(tiny, captured, NegByMul(), wrong, *behind)
    assert f"pass '{wrong.name}'" in str(failed)
    assert told == ["export passed", "neg-by-mul passed", f"{wrong.name} failed"]
    assert [step.name for step in record.passes] == ["neg-by-mul", wrong.name]


def test_a_fault_that_the_next_pass_takes_back_is_one(tiny: Tiny, captured: list[Sample]) -> None:
    """The last graph is right, and so would every graph be that was judged by it."""
    record, told, failed = judged(tiny, captured, LoseSign(), TakeBack())
    assert "pass 'wrong-sign'" in str(failed)
    assert told == ["export passed", "wrong-sign failed"]
    assert [step.name for step in record.passes] == ["wrong-sign"]


def opened_parts(tiny: Tiny, samples: list[Sample], out: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the parts in the order in which they are opened, those of a chain next to each other."""
    opened: list[str] = []
    original = PartPlayer.open

    def open_(model: ModelProto, entry: PartEntry, *, optimise: bool) -> PartPlayer:
        opened.append(entry.name)
        return original(model, entry, optimise=optimise)

    monkeypatch.setattr(PartPlayer, "open", staticmethod(open_))
    play(tiny, samples, Drawn({"net": (Rescale(),)}, None).recipe(True), out)
    return opened


def test_the_chain_goes_on_from_what_the_first_part_computed(
    tiny: Tiny, captured: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_cut, behind_its_pass, chain = ["net", "post"], ["net"], ["post"]
    assert opened_parts(tiny, captured, tmp_path / "a", monkeypatch)[-4:] == [*as_cut, *behind_its_pass, *chain]


@pytest.mark.parametrize("unlike", ["computes_the_same", "gives_as_captured", "_MOST_KEPT"])
def test_the_chain_plays_all_parts_where_that_may_be_something_else(
    tiny: Tiny, captured: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unlike: str
) -> None:
    """Shapes that were written out changed a node, a note says that types differ, or it is too much to be kept."""
    monkeypatch.setattr(apply, unlike, 0 if unlike == "_MOST_KEPT" else lambda *models: False)
    assert opened_parts(tiny, captured, tmp_path / "a", monkeypatch)[-5:] == ["net", "post", "net", "net", "post"]


def test_a_chain_that_is_wrong_only_as_a_whole_is_found(
    tiny: Tiny, captured: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first part computes on one image is given to the chain as that on another."""
    original = Gate.play_chain

    def play_chain(self: Gate, parts: object, inputs: object, outputs: object, begun: object = None) -> object:
        assert isinstance(begun, tuple)
        return original(self, parts, inputs, outputs, begun[::-1])  # type: ignore[arg-type]

    monkeypatch.setattr(Gate, "play_chain", play_chain)
    with pytest.raises(Difference, match="the chain of parts"):
        play(tiny, captured, Drawn({}, None).recipe(True), tmp_path / "a")
