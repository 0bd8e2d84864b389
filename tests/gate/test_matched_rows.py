"""Rows of detections and proposals find their partners, whatever their order."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphsurgery.detections.row_groups import Group, Keys
from graphsurgery.errors import InputError
from graphsurgery.gate import matched_rows
from graphsurgery.gate.matched_rows import RowMatch, align
from graphsurgery.sources.row_groups import DETECTIONS

Array = NDArray[Any]
BOXES = np.array([[0, 0, 10, 10], [20, 20, 40, 50], [100, 5, 130, 25]], dtype=np.float32)


def detections(boxes: Array, labels: list[int] | None = None, scores: list[float] | None = None) -> dict[str, Array]:
    count = len(boxes)
    return {
        "boxes": np.asarray(boxes, dtype=np.float32).reshape(-1, 4),
        "labels": np.array(labels if labels is not None else [1] * count, dtype=np.int64),
        "scores": np.array(scores if scores is not None else [0.9] * count, dtype=np.float32),
    }


def match_rows(reference: Array, candidate: Array) -> RowMatch:
    return matched_rows.match_rows(Keys(reference), Keys(candidate))


def match_detections(reference: Mapping[str, Array], candidate: Mapping[str, Array]) -> RowMatch:
    return matched_rows.match_rows(*(Keys(*map(side.get, DETECTIONS.keys)) for side in (reference, candidate)))


def partners(match: RowMatch) -> dict[int, int]:
    return dict(zip(match.reference.tolist(), match.candidate.tolist(), strict=True))


def pick(tensors: Mapping[str, Array], rows: Array) -> dict[str, Array]:
    return {name: tensor[rows] for name, tensor in tensors.items()}


def test_rows_that_did_not_move_are_left_where_they_are() -> None:
    match = match_rows(BOXES, BOXES + np.float32(1e-3))
    assert partners(match) == {0: 0, 1: 1, 2: 2}
    assert (match.moved, match.unmatched) == (0, 0)


def test_rows_that_moved_are_found_again() -> None:
    match = match_rows(BOXES, BOXES[[2, 0, 1]] + np.float32(1e-3))
    assert partners(match) == {0: 1, 1: 2, 2: 0}
    assert (match.moved, match.unmatched) == (3, 0)


def test_a_missing_and_an_extra_row_are_named_by_index() -> None:
    far = np.array([[500, 500, 520, 520]], dtype=np.float32)
    match = match_rows(BOXES, np.concatenate([BOXES[[0, 2]], far]))
    assert partners(match) == {0: 0, 2: 1}
    assert (match.missing.tolist(), match.extra.tolist()) == ([1], [2])
    assert match.moved == 0, "the rows after a missing one have not changed their order"


def test_a_row_computed_twice_has_one_partner_only() -> None:
    match = match_rows(BOXES, BOXES[[0, 0, 2]])
    assert partners(match) == {0: 0, 2: 2}
    assert (match.missing.tolist(), match.extra.tolist()) == ([1], [1])


@pytest.mark.parametrize(("rows", "others"), [(0, 3), (3, 0), (0, 0)])
def test_no_rows_at_all_leave_the_other_side_without_partners(rows: int, others: int) -> None:
    match = match_rows(BOXES[:rows], BOXES[:others])
    assert (len(match.missing), len(match.extra), len(match.reference)) == (rows, others, 0)


@pytest.mark.parametrize(("width", "partner"), [(20.0, True), (20.1, False)])
def test_the_overlap_of_partners_is_at_least_half(width: float, partner: bool) -> None:
    match = match_rows(np.array([[0, 0, 10, 10.0]]), np.array([[0, 0, width, 10]]))
    assert (match.unmatched == 0) is partner


def test_a_box_without_area_is_the_partner_of_its_equal() -> None:
    flat = np.array([[5, 5, 5, 9], [0, 0, 0, 0], [7, 7, 3, 3.0]])
    assert partners(match_rows(flat, flat[[1, 2, 0]])) == {0: 2, 1: 0, 2: 1}


def test_a_hairline_box_survives_rounding() -> None:
    hairline = np.array([[700, 5, 700, 900]], dtype=np.float32)
    assert match_rows(hairline, np.nextafter(hairline, np.float32(1e4))).unmatched == 0


def test_a_box_without_area_has_no_partner_a_pixel_away() -> None:
    flat = np.array([[700, 5, 700, 900]], dtype=np.float32)
    assert match_rows(flat, flat + 1).unmatched == 2


def test_nan_boxes_are_partners_of_their_equals_only() -> None:
    broken = BOXES.copy()
    broken[1, 2] = np.nan
    broken[2, 3] = np.inf
    assert match_rows(broken, broken).unmatched == 0
    assert partners(match_rows(broken, broken[[2, 1, 0]])) == {0: 2, 1: 1, 2: 0}
    assert match_rows(BOXES, broken).missing.tolist() == [1, 2]


def test_swapped_labels_leave_both_without_partner() -> None:
    match = match_detections(detections(BOXES, [1, 2, 3]), detections(BOXES, [2, 1, 3]))
    assert (match.missing.tolist(), match.extra.tolist()) == ([0, 1], [0, 1])


def test_labels_decide_between_boxes_at_the_same_place() -> None:
    same = BOXES[[0, 0]]
    match = match_detections(detections(same, [1, 2]), detections(same, [2, 1]))
    assert partners(match) == {0: 1, 1: 0}


def test_scores_decide_between_equal_boxes() -> None:
    same = BOXES[[0, 0, 0]]
    match = match_detections(detections(same, None, [0.9, 0.5, 0.1]), detections(same, None, [0.1, 0.9, 0.5]))
    assert partners(match) == {0: 1, 1: 2, 2: 0}


def test_scores_decide_between_boxes_that_differ_by_rounding() -> None:
    near = np.array([[0, 0, 10, 10], [0, 0, 10, 10.0001]], dtype=np.float32)
    match = match_detections(detections(near, None, [0.9, 0.3]), detections(near[[1, 0]], None, [0.9, 0.3]))
    assert partners(match) == {0: 0, 1: 1}


def test_duplicates_with_equal_scores_keep_their_order() -> None:
    same = BOXES[[0, 0, 0]]
    match = match_detections(detections(same), detections(same))
    assert partners(match) == {0: 0, 1: 1, 2: 2}


def test_the_order_that_is_there_wins_over_greed_that_leaves_rows_alone() -> None:
    # The second captured box is closest to the first computed one, the first captured one to nothing else.
    reference = np.array([[0, 0, 10, 10], [3, 0, 13, 10]], dtype=np.float32)
    candidate = np.array([[2.5, 0, 12.5, 10], [5.9, 0, 15.9, 10]], dtype=np.float32)
    match = match_rows(reference, candidate)
    assert partners(match) == {0: 0, 1: 1}
    assert match.unmatched == 0


def test_the_order_that_is_there_wins_over_greed_that_costs_more() -> None:
    # Greed pairs 1 with 0 at an IoU of 0.90, which leaves 0.60 for the others; in order both have 0.82.
    reference = np.array([[0, 0, 20, 10], [3, 0, 23, 10]], dtype=np.float32)
    assert partners(match_rows(reference, reference + np.array([2, 0, 2, 0], dtype=np.float32))) == {0: 0, 1: 1}


@pytest.mark.parametrize("seed", range(20))
def test_any_permutation_with_noise_is_undone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 800, (60, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 300, (60, 2))], axis=1)
    reference = detections(boxes, rng.integers(1, 4, 60).tolist(), rng.uniform(0.05, 1, 60).tolist())
    order = rng.permutation(60)
    candidate = pick(reference, order)
    candidate["boxes"] = candidate["boxes"] + rng.uniform(-1e-3, 1e-3, (60, 4)).astype(np.float32)
    match = match_detections(reference, candidate)
    assert order[match.candidate].tolist() == list(range(60))
    assert match.moved == int(np.count_nonzero(order != np.arange(60)))


def test_a_thousand_crowded_proposals_take_seconds_at_most() -> None:
    rng = np.random.default_rng(0)
    crowd = np.array([100, 100, 300, 300]) + rng.uniform(-5, 5, (1000, 4))
    started = time.monotonic()
    match = match_rows(crowd, crowd[::-1])
    assert time.monotonic() - started < 10
    assert match.candidate.tolist() == list(range(999, -1, -1))


def test_thousands_of_padded_rows_are_no_quadratic_trap() -> None:
    padded = np.concatenate([BOXES, np.zeros((20_000, 4), dtype=np.float32)])
    noisy = padded.copy()
    noisy[:3] += np.float32(1e-3)
    started = time.monotonic()
    match = match_rows(padded, noisy)
    assert (match.moved, match.unmatched) == (0, 0)
    assert time.monotonic() - started < 5


def test_refuses_what_is_not_boxes() -> None:
    with pytest.raises(InputError, match=r"boxes of shape \(3, 5\)"):
        match_rows(np.zeros((3, 5)), BOXES)
    with pytest.raises(InputError, match="boxes, labels and scores"):
        Group(keys=())


def test_aligning_takes_members_along_and_leaves_others_alone() -> None:
    reference = {**detections(BOXES), "masks": np.arange(3.0), "masks_pasted": np.arange(4.0)}
    order = np.array([1, 2, 0])
    candidate = {
        **pick(detections(BOXES), order),
        "masks": np.arange(3.0)[order],
        "masks_pasted": np.arange(4.0),
    }
    alignment = align(reference, candidate, DETECTIONS)
    assert alignment is not None
    assert alignment.names == ("boxes", "labels", "scores", "masks")
    for name in alignment.names:
        np.testing.assert_array_equal(*alignment.select(name, reference[name], candidate[name]))


def test_aligning_needs_all_keys_as_rows_of_the_boxes() -> None:
    whole = detections(BOXES)
    for name, broken in (
        ("boxes", whole["boxes"].reshape(4, 3)),
        ("labels", whole["labels"][:2]),
        ("scores", whole["scores"][:, None]),
        ("labels", np.array(["a", "b", "c"])),
    ):
        assert align(whole, {**whole, name: broken}, DETECTIONS) is None
        assert align({**whole, name: broken}, whole, DETECTIONS) is None
    assert align(whole, {"boxes": BOXES}, DETECTIONS) is None


def test_unmatched_rows_are_described_on_both_sides() -> None:
    reference = detections(BOXES, [1, 2, 3], [0.9, 0.71, 0.5])
    candidate = detections(BOXES[:2], [1, 5], [0.9, 0.25])
    alignment = align(reference, candidate, DETECTIONS)
    assert alignment is not None
    assert alignment.describe_unmatched() == (
        "2 of 3 captured detections have no partner (label 2, score 0.71, box [20, 20, 40, 50]), "
        "1 of 2 computed detections has no partner (label 5, score 0.25, box [20, 20, 40, 50])"
    )
