"""Rows that a tie of scores has exchanged are no fault, and a good row that is lost is one.

The embedded detector is taken through its recipe on the sample images of two seeds; with SEEDS=1 in the environment on
those of all 20.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from gate.usual_rows import compare
from graphsurgery.capture.samples import Capture, Sample
from graphsurgery.capture.take import capture, embedded_samples
from graphsurgery.demo import shapes
from graphsurgery.gate.gate import Gate
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.gate.verdicts import Comparison
from graphsurgery.graph.model import Model
from graphsurgery.parts.folder import OutputFolder
from graphsurgery.parts.part import Part
from graphsurgery.pipeline import apply as pipeline
from graphsurgery.recipe.load import Recipe, load_recipe
from graphsurgery.report.run_record import Record
from graphsurgery.rewrite.registry import discover
from graphsurgery.sources import Source, open_source
from graphsurgery.sources.row_groups import ROW_GROUPS

Array = NDArray[np.float32]
# of these two the third image has 393 and 291 of 1,000 proposals exchanged
SEEDS = range(20) if os.environ.get("SEEDS") else (4, 18)

# --- the rule -----------------------------------------------------------------------------------------------------


def squares(*corners: float) -> Array:
    return np.array([[x, 0, x + 100, 100] for x in corners], np.float32)


# Boxes that overlap none of the others, but for the second and the third, which overlap by an IoU of 0.8
CONSIDERED = squares(0, 200, 211, 400, 600, 800, 1000)
SCORES = np.array([0.9, 0.5, 0.5 - 1e-7, 0.3, 1e-8, 2e-8, 1e-9], np.float32)


def compared(
    captured: Sequence[int], computed: Array, scores: Array = SCORES, tolerances: Tolerances | None = None
) -> Comparison:
    """Compare what was computed with the rows `captured` of the boxes considered."""
    rows = np.array(captured)
    aside = {
        "proposal_scores": scores[rows],
        "proposals_considered": CONSIDERED,
        "proposals_considered_scores": scores,
    }
    return compare({"proposals": CONSIDERED[rows]}, {"proposals": computed}, tolerances or Tolerances(), aside=aside)


def chosen(*rows: int) -> Array:
    return CONSIDERED[np.array(rows)]


def test_rows_at_the_end_whose_scores_are_alike_may_be_exchanged() -> None:
    comparison = compared([0, 1, 3, 4], chosen(0, 1, 3, 6))
    assert comparison.verdict == "passed"
    assert comparison.notes == ("proposals: ties of scores put 1 others in the place of 1 of 4",)


def test_overlapping_rows_whose_scores_are_alike_may_stand_in_for_each_other() -> None:
    assert compared([0, 1, 3], chosen(0, 2, 3)).verdict == "passed"


def test_what_a_tie_lets_in_may_keep_out_what_is_worse() -> None:
    # the first of the two is left out, so a third box, which it would have kept out, is chosen too
    scores = SCORES.copy()
    scores[3] = 0.2
    considered = CONSIDERED.copy()
    considered[3] = [170, 0, 270, 100]
    aside = {"proposals_considered": considered, "proposals_considered_scores": scores}
    reference, candidate = considered[[0, 1]], considered[[0, 2, 3]]
    for better, verdict in ((0.5, "passed"), (0.51, "failed")):
        aside["proposal_scores"] = np.array([0.9, better], np.float32)
        got = compare({"proposals": reference}, {"proposals": candidate}, Tolerances(), aside=aside)
        assert got.verdict == verdict


@pytest.mark.parametrize(
    ("captured", "computed", "said"),
    [
        ((0, 1, 3, 4), chosen(1, 3, 4), "1 of 4 captured proposals has no partner (box [0, 0, 100, 100])"),
        ((0, 1, 3, 4), chosen(1, 3, 4, 5), "(box [0, 0, 100, 100])"),
        ((0, 1, 3, 4), chosen(0, 1, 4, 5), "(box [400, 0, 500, 100])"),
        ((0, 1, 3, 4), chosen(0, 0, 1, 3), "1 of 4 computed proposals has no partner (box [0, 0, 100, 100])"),
        ((0, 1, 4), chosen(0, 1, 4, 3), "1 of 4 computed proposals has no partner (box [400, 0, 500, 100])"),
        ((0, 1, 3, 4), chosen(0, 1, 3), "1 of 4 captured proposals has no partner (box [600, 0, 700, 100])"),
    ],
    ids=["best lost", "best replaced by the next", "a middle one replaced", "one twice", "one more", "last one lost"],
)
def test_a_row_that_is_lost_or_too_many_is_no_tie(captured: Sequence[int], computed: Array, said: str) -> None:
    comparison = compared(captured, computed)
    assert comparison.verdict == "failed"
    assert said in comparison.explain()


def test_a_worse_box_does_not_stand_in_for_a_better_one() -> None:
    scores = SCORES.copy()
    scores[2] = 0.49
    assert compared([0, 1, 3], chosen(0, 2, 3), scores).verdict == "failed"
    assert compared([0, 2, 3], chosen(0, 1, 3), scores).verdict == "failed"


def test_a_box_that_was_not_considered_stands_in_for_none() -> None:
    moved = chosen(0, 1, 3)
    moved[1] += 1
    assert compared([0, 1, 3], moved).explain() == (
        "proposals: 1 off where 0.05 is allowed (smallest tolerance that would pass: {relative: 0.002})"
    )
    moved[1] += 1000
    assert "1 of 3 captured proposals has no partner" in compared([0, 1, 3], moved).explain()
    moved[1] = np.nan
    assert compared([0, 1, 3], moved).verdict == "failed"


def test_the_best_of_an_image_with_hardly_any_object_is_not_worthless() -> None:
    faint = SCORES * np.float32(1e-4)
    assert compared([0, 1, 3, 4], chosen(0, 1, 3, 6), faint).verdict == "passed"
    assert compared([0, 1, 3, 4], chosen(1, 3, 4, 6), faint).verdict == "failed"


def test_the_tolerance_of_scores_says_how_alike_they_may_be() -> None:
    scores = SCORES.copy()
    scores[2] = 0.49
    for allowed, verdict in ((0.02, "passed"), (0.005, "failed")):
        tolerances = Tolerances.parse({"proposal_scores": allowed})
        assert compared([0, 1, 3], chosen(0, 2, 3), scores, tolerances).verdict == verdict


def test_a_capture_without_scores_sees_no_tie() -> None:
    got = compare({"proposals": chosen(0, 1, 3, 4)}, {"proposals": chosen(0, 1, 3, 6)}, Tolerances())
    assert got.verdict == "failed"
    aside = {"proposal_scores": SCORES[:3], "proposals_considered": CONSIDERED, "proposals_considered_scores": SCORES}
    got = compare({"proposals": chosen(0, 1, 3, 4)}, {"proposals": chosen(0, 1, 3, 6)}, Tolerances(), aside=aside)
    assert got.verdict == "failed", "scores of another number of rows are of other rows"


def test_what_goes_with_the_rows_is_compared_where_they_have_partners() -> None:
    aside = {
        "proposal_scores": SCORES[[0, 1, 4]],
        "proposals_considered": CONSIDERED,
        "proposals_considered_scores": SCORES,
    }
    reference = {"proposals": chosen(0, 1, 4), "box_features": np.array([[1, 2], [3, 4], [5, 6]], np.float32)}
    features = np.array([[1, 2], [3, 4], [9, 9]], np.float32)
    candidate = {"proposals": chosen(0, 1, 6), "box_features": features}
    assert compare(reference, candidate, Tolerances(), aside=aside).verdict == "passed"
    features[1, 1] = 4.1
    assert compare(reference, candidate, Tolerances(), aside=aside).verdict == "failed"
    features[1, 1], features[2, 0] = 4, np.nan
    assert "NaN or Inf in box_features" in compare(reference, candidate, Tolerances(), aside=aside).explain()


# --- the embedded detector ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    pytest.importorskip("torch")
    return load_recipe("shapes", registry=discover())


@pytest.fixture(scope="module")
def source(recipe: Recipe) -> Source:
    return open_source(recipe.source)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_seed_of_the_sample_images_raises_an_alarm_and_every_fault_does(
    recipe: Recipe, source: Source, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "CAPTURE_SEED", seed)
    samples = captured_samples(source, tmp_path / "model_io")
    run = pipeline.Run(
        recipe,
        source,
        samples,
        Gate(samples, recipe.tolerances, recipe.grants, ROW_GROUPS),
        Record({}),
        calibration=samples,
    )
    with OutputFolder(tmp_path / "parts") as output:
        parts = {part.subject.name: part.subject for part in pipeline.apply(run, output).parts}
    assert {"proposals", "box_features"} <= set(parts["box_proposal"].model.outputs)

    for sample in samples:  # each by itself: the faintest image must show it as well
        gate = Gate([sample], recipe.tolerances, recipe.grants, ROW_GROUPS)
        for node in (lost_row("proposals"), moved_row("proposals", 1.0)):
            verdict = gate.check_part(with_fault(parts["box_proposal"], node))
            assert verdict.verdict == "failed", f"sample {sample.id}: {node[-1].op_type} of proposals"
    gate = Gate(samples, recipe.tolerances, recipe.grants, ROW_GROUPS)
    for name, off in (("scores", 0.01), ("boxes", 1.0)):
        verdict = gate.check_part(with_fault(parts["mask_proposal"], moved_row(name, off)))
        assert name in [report.name for report in verdict.tensors if report.verdict == "failed"]


def captured_samples(source: Source, folder: Path) -> tuple[Sample, ...]:
    capture(source, list(embedded_samples(3)), folder)
    return Capture.open(folder).samples


def lost_row(name: str) -> list[NodeProto]:
    """Return nodes that make the tensor `name` out of `whole` without its first row, which is the best."""
    return [
        constant("first", np.array([1], np.int64)),
        constant("end", np.array([2**31], np.int64)),
        constant("axis", np.array([0], np.int64)),
        helper.make_node("Slice", ["whole", "first", "end", "axis"], [name]),
    ]


def moved_row(name: str, off: float) -> list[NodeProto]:
    """Return nodes that make the tensor `name` out of `whole`, one value of its first row, if it has one, off."""
    return [
        constant("one", np.array(1, np.int64)),
        constant("zero", np.array(0, np.int64)),
        constant("axis", np.array([0], np.int64)),
        constant("off", np.array(off, np.float32)),
        helper.make_node("Shape", ["whole"], ["sizes"]),
        helper.make_node("ReduceProd", ["sizes"], ["count"], keepdims=0),
        helper.make_node("Range", ["zero", "count", "one"], ["numbers"]),
        helper.make_node("Equal", ["numbers", "zero"], ["is_first"]),
        helper.make_node("Cast", ["is_first"], ["weight"], to=1),
        helper.make_node("Mul", ["weight", "off"], ["flat"]),
        helper.make_node("Reshape", ["flat", "sizes"], ["shift"], allowzero=1),
        helper.make_node("Add", ["whole", "shift"], [name]),
    ]


def constant(name: str, value: NDArray[np.generic]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))


def with_fault(part: Part, nodes: Sequence[NodeProto]) -> Part:
    """Put nodes between an output of a part and the node that writes it; what reads it gets what is wrong, too."""
    name = nodes[-1].output[0]
    proto = ModelProto()
    proto.CopyFrom(part.model.proto)
    own = {each: f"fault_{each}" for node in nodes for each in (*node.input, *node.output) if each != name}
    kept = list(proto.graph.node)
    del proto.graph.node[:]
    for node in kept:
        proto.graph.node.append(node)
        if name in node.output:
            proto.graph.node[-1].output[list(node.output).index(name)] = own["whole"]
            for fault in nodes:
                added = proto.graph.node.add()
                added.CopyFrom(fault)
                added.input[:] = [own.get(each, each) for each in fault.input]
                added.output[:] = [own.get(each, each) for each in fault.output]
    return Part(part.name, part.device, part.accelerator, Model(proto))
