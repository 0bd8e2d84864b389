"""What a recipe says of the outputs: faults of one role are caught, and what a rounding may do passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from graphsurgery.capture.samples import Sample
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.detections.presets import PRESETS
from graphsurgery.gate.described_outputs import DescribedOutputs
from graphsurgery.gate.equivalence import compare
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.gate.verdicts import Comparison

Array = NDArray[Any]
Tensors = dict[str, Array]
TOLERANCES = Tolerances.parse({"boxes": 0.5, "scores": 2e-3})
ROWS, CLASSES = 40, 6


@dataclass
class Captured:
    """As much of a Sample as says what shapes there are."""

    tensors: Tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape


def boxes(count: int = ROWS) -> Array:
    """Boxes that overlap none of the others, as corners in pixels of a canvas of 640."""
    place = np.arange(count)
    corner = np.stack([place % 8 * 75.0, place // 8 * 75.0], 1) + 5
    draw = np.random.default_rng(0).uniform(20, 60, (count, 2))
    return np.concatenate([corner, corner + draw], 1).astype(np.float32)


def middle(corners: Array) -> Array:
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)


def raw() -> Tensors:
    """YOLO's [1, 4 + C, N]."""
    scores = np.random.default_rng(1).uniform(0, 1, (ROWS, CLASSES))
    return {"output0": np.concatenate([middle(boxes()), scores], 1).T[None].astype(np.float32)}


def end_to_end() -> Tensors:
    """YOLO's [1, N, 6], the best first."""
    scores, labels = np.linspace(0.9, 0.1, ROWS)[:, None], (np.arange(ROWS) % CLASSES)[:, None]
    return {"output0": np.concatenate([boxes(), scores, labels], 1)[None].astype(np.float32)}


def queries() -> Tensors:
    """RT-DETR's logits and boxes, behind its TopK."""
    logits = np.random.default_rng(2).normal(-2, 2, (1, ROWS, CLASSES)).astype(np.float32)
    return {"logits": logits, "pred_boxes": (middle(boxes()) / 640)[None].astype(np.float32)}


FAMILIES: dict[str, tuple[Callable[[], Tensors], str, Any, Any]] = {
    # how it looks, its preset, where scores are and where boxes are
    "raw": (raw, "ultralytics", ("output0", np.s_[:, 4:]), ("output0", np.s_[:, :4])),
    "end to end": (end_to_end, "ultralytics_end2end", ("output0", np.s_[..., 4]), ("output0", np.s_[..., :4])),
    "queries": (queries, "rtdetr", ("logits", np.s_[...]), ("pred_boxes", np.s_[...])),
}
SETS = ("end to end", "queries")


def described(family: str) -> tuple[Tensors, DescribedOutputs]:
    make, preset, _, _ = FAMILIES[family]
    tensors = make()
    return tensors, DescribedOutputs(Postprocessing.from_json(PRESETS[preset]), tuple(tensors))


def judged(family: str, candidate: Tensors, tolerances: Tolerances = TOLERANCES) -> Comparison:
    reference, outputs = described(family)
    sample = cast(Sample, Captured(reference))
    return compare(reference, candidate, tolerances, outputs.groups(sample), roles=outputs.roles(sample))


def added(tensors: Tensors, where: tuple[str, Any], by: Any) -> Tensors:
    name, index = where
    changed = tensors[name].copy()
    changed[index] += by
    return {**tensors, name: changed}


def reordered(tensors: Tensors, order: Any) -> Tensors:
    return {name: np.ascontiguousarray(tensor[:, order]) for name, tensor in tensors.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_passes_and_so_does_noise_of_the_last_bit(family: str) -> None:
    reference, _ = described(family)
    assert judged(family, reference).verdict == "passed"
    for seed in range(10):
        noise = np.random.default_rng(seed).uniform(-1, 1, 10_000) * 2.0**-22
        noisy = {n: (t * (1 + noise[: t.size].reshape(t.shape))).astype(np.float32) for n, t in reference.items()}
        if family == "end to end":
            noisy["output0"][..., 5] = reference["output0"][..., 5]
        assert judged(family, noisy).verdict == "passed"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("by", [0.05, 0.01])
def test_scores_that_are_off(family: str, by: float) -> None:
    reference, _ = described(family)
    comparison = judged(family, added(reference, FAMILIES[family][2], by))
    assert comparison.verdict == "failed"
    assert "scores" in comparison.explain()


@pytest.mark.parametrize("family", FAMILIES)
def test_boxes_that_are_off_by_two_pixels(family: str) -> None:
    tolerances = TOLERANCES if family != "queries" else Tolerances.parse({"boxes": 0.5 / 640, "scores": 2e-3})
    reference, _ = described(family)
    by = 2 / 640 if family == "queries" else 2
    comparison = judged(family, added(reference, FAMILIES[family][3], by), tolerances)
    assert comparison.verdict == "failed"
    assert "boxes" in comparison.explain()


@pytest.mark.parametrize("family", FAMILIES)
def test_classes_that_are_shifted_by_one(family: str) -> None:
    reference, _ = described(family)
    name, where = FAMILIES[family][2]
    shifted = {n: t.copy() for n, t in reference.items()}
    if family == "end to end":
        shifted[name][..., 5] = (shifted[name][..., 5] + 1) % CLASSES
    else:
        shifted[name][where] = np.roll(shifted[name][where], 1, axis=1 if family == "raw" else 2)
    assert judged(family, shifted).verdict == "failed"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_that_is_lost(family: str) -> None:
    reference, _ = described(family)
    for row in (0, 7, ROWS - 1):
        lost = {name: tensor.copy() for name, tensor in reference.items()}
        for tensor in lost.values():
            if family == "raw":
                tensor[..., row] = 0
            else:
                tensor[:, row:-1], tensor[:, -1] = tensor[:, row + 1 :], -9 if family == "queries" else 0
        assert judged(family, lost).verdict == "failed", row


@pytest.mark.parametrize("family", SETS)
def test_rows_that_a_rounding_has_swapped_are_the_same_rows(family: str) -> None:
    reference, _ = described(family)
    order = np.arange(ROWS)
    order[[3, 4, 20, 21]] = order[[4, 3, 21, 20]]
    comparison = judged(family, reordered(reference, order))
    assert comparison.verdict == "passed"
    assert comparison.notes == ("detections: order differs, 4 of 40 are at another place",)
    assert judged(family, added(reordered(reference, order), FAMILIES[family][2], 0.01)).verdict == "failed"


def test_rows_of_a_raw_output_have_an_order() -> None:
    reference, outputs = described("raw")
    assert outputs.groups(cast(Sample, Captured(reference))) == ()
    order = np.arange(ROWS)[::-1]
    assert judged("raw", {"output0": np.ascontiguousarray(reference["output0"][..., order])}).verdict == "failed"


def test_a_tie_at_the_end_exchanges_the_last_row_and_no_other() -> None:
    reference, _ = described("end to end")
    for row, verdict in ((ROWS - 1, "passed"), (ROWS - 2, "failed")):
        other = {"output0": reference["output0"].copy()}
        other["output0"][0, row, :4] = [600, 600, 630, 630]
        assert judged("end to end", other).verdict == verdict, row
    other["output0"][0, -1, :5] = [600, 600, 630, 630, np.nan]
    assert judged("end to end", other).verdict == "failed"


def test_a_tie_at_the_end_is_one_too_where_the_boxes_overlap() -> None:
    reference, _ = described("end to end")
    for row, verdict in ((ROWS - 1, "passed"), (ROWS - 2, "failed")):
        other = {"output0": reference["output0"].copy()}
        other["output0"][0, row, :4] += [4, 0, 4, 0]
        assert judged("end to end", other).verdict == verdict, row
    other["output0"][0, -1, 4] += 0.001  # within the tolerance, and yet no tie
    assert judged("end to end", other).verdict == "failed"


def test_a_label_in_a_column_parts_rows_that_overlap() -> None:
    reference, _ = described("end to end")
    other = {"output0": reference["output0"].copy()}
    other["output0"][0, 5, 5] += 1
    assert "label 5" in judged("end to end", other).explain()


def test_outputs_that_the_section_does_not_name_are_compared_as_ever() -> None:
    reference, outputs = described("end to end")
    sample = cast(Sample, Captured(reference))
    both = {**reference, "count": np.array([3, 4])}
    wrong = {**both, "count": np.array([3, 5])}
    groups, roles = outputs.groups(sample), outputs.roles(sample)
    assert compare(both, both, TOLERANCES, groups, roles=roles).verdict == "passed"
    assert compare(both, wrong, TOLERANCES, groups, roles=roles).explain().startswith("count")


def test_a_part_that_gives_some_of_the_outputs_is_compared_by_roles_all_the_same() -> None:
    reference, outputs = described("queries")
    sample = cast(Sample, Captured(reference))
    groups, roles = outputs.groups(sample), outputs.roles(sample)
    some = {"logits": reference["logits"]}
    assert compare(some, some, TOLERANCES, groups, roles=roles).verdict == "passed"
    off = {"logits": some["logits"] + np.float32(0.01)}
    assert compare(some, off, TOLERANCES, groups, roles=roles).verdict == "failed"


def test_nothing_is_described_without_a_section() -> None:
    sample = cast(Sample, Captured(raw()))
    assert (DescribedOutputs().roles(sample), DescribedOutputs().groups(sample)) == ({}, ())
