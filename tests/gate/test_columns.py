"""A tensor that holds several things is compared by its columns: by roles where they are told, else by ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphsurgery.detections.views import Column
from graphsurgery.gate.columns import by_role
from graphsurgery.gate.equivalence import compare
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.gate.verdicts import Comparison

Array = NDArray[Any]
NONE = Tolerances()
# YOLO's raw output [1, 4 + 6, 50]: boxes in pixels of a canvas of 640, then scores of classes
RAW = (Column("boxes", 1, 0, 4), Column("scores", 1, 4, 10))


def raw(seed: int = 0) -> Array:
    draw = np.random.default_rng(seed)
    boxes, scores = draw.uniform(5, 640, (1, 4, 50)), draw.uniform(0, 1, (1, 6, 50))
    return np.concatenate([boxes, scores], 1).astype(np.float32)


def off(tensor: Array, where: Any, by: float) -> Array:
    changed = tensor.copy()
    changed[where] += by
    return changed


def seen(reference: Array, candidate: Array, tolerances: Tolerances = NONE, roles: Any = None) -> Comparison:
    return compare({"y": reference}, {"y": candidate}, tolerances, (), roles=roles)


SCORES, BOXES = np.s_[:, 4:], np.s_[:, :4]


# --- without roles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [SCORES, np.s_[:, 7], np.s_[:, 9, 3]])
def test_a_score_is_held_against_the_range_of_scores(where: Any) -> None:
    comparison = seen(raw(), off(raw(), where, 0.05))
    assert comparison.verdict == "failed"
    (report,) = comparison.tensors
    assert "along axis 1" in report.columns
    assert report.needed == pytest.approx(0.05, rel=1e-3)
    assert seen(raw(), off(raw(), where, 0.05), Tolerances.parse({"y": 0.0501})).verdict == "passed"


def test_rows_that_end_to_end_exports_give_are_looked_at_the_same_way() -> None:
    rows = np.ascontiguousarray(raw().transpose(0, 2, 1))
    assert seen(rows, off(rows, np.s_[..., 8], 0.05)).verdict == "failed"
    assert seen(rows[0], off(rows[0], np.s_[..., 8], 0.05)).verdict == "failed"


@pytest.mark.parametrize("shape", [(1, 84, 21), (1, 21, 84)])
def test_fewer_rows_than_columns_are_no_way_round_it(shape: tuple[int, ...]) -> None:
    tensor = np.random.default_rng(1).uniform(0.1, 1, shape).astype(np.float32)
    columns = np.s_[:, :4] if shape[1] == 84 else np.s_[..., :4]
    tensor[columns] *= 640
    elsewhere = np.s_[:, 50, 3] if shape[1] == 84 else np.s_[:, 3, 50]
    assert seen(tensor, off(tensor, elsewhere, 0.05)).verdict == "failed"


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("shape", [(1, 84, 50), (1, 256, 12, 12), (40, 7), (1, 30, 4), (100, 1, 64)])
def test_noise_of_the_last_bit_passes_whatever_the_ranges_are(seed: int, shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(seed)
    scale = 10.0 ** draw.uniform(-9, 3, [size if axis == 1 else 1 for axis, size in enumerate(shape)])
    tensor = (draw.normal(size=shape) * scale).astype(np.float32)
    noise = draw.uniform(-1, 1, shape) * 2.0**-22 * np.abs(tensor).max()
    assert seen(tensor, (tensor + noise).astype(np.float32)).verdict == "passed"


def test_boxes_alone_are_compared_as_ever() -> None:
    boxes = np.array([[[1, 2, 3, 4], [400, 300, 600, 640]]], np.float32)
    assert seen(boxes, off(boxes, np.s_[:, 0], 0.06)).verdict == "passed"


def test_a_rule_of_its_own_says_all() -> None:
    wrong = off(raw(), SCORES, 0.05)
    assert seen(raw(), wrong, Tolerances.parse({"y": {"relative": 1e-4}})).verdict == "passed"
    assert seen(raw(), wrong, NONE.behind([Tolerances.parse({"y": {"relative": 1e-6}})])).verdict == "passed"
    assert seen(raw(), wrong, NONE.behind([Tolerances.parse({"other": 1.0})])).verdict == "failed"


def test_whole_numbers_and_empty_tensors_have_no_ranges() -> None:
    whole = np.arange(60).reshape(1, 6, 10)
    assert seen(whole, whole).verdict == "passed"
    assert seen(np.zeros((1, 6, 0), np.float32), np.zeros((1, 6, 0), np.float32)).verdict == "inconclusive"


# --- with roles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "by", "role"), [(np.s_[:, 5, 7], 0.01, "scores"), (np.s_[:, 2, 7], 2.0, "boxes")])
def test_each_role_has_its_own_tolerance(where: Any, by: float, role: str) -> None:
    tolerances = Tolerances.parse({"boxes": 0.5, "scores": 1e-3, "y": 100})
    comparison = seen(raw(), off(raw(), where, by), tolerances, {"y": RAW})
    assert comparison.verdict == "failed"
    assert comparison.explain().startswith(f"y ({role}, columns ")
    assert seen(raw(), off(raw(), where, by), tolerances).verdict == "passed", "y: 100 says so without roles"


def test_what_is_within_the_tolerance_of_its_role_passes() -> None:
    tolerances = Tolerances.parse({"boxes": 0.5, "scores": 1e-3})
    assert seen(raw(), off(off(raw(), BOXES, 0.4), SCORES, 9e-4), tolerances, {"y": RAW}).verdict == "passed"


def test_without_a_rule_each_role_goes_by_its_own_range() -> None:
    assert seen(raw(), off(raw(), np.s_[:, 4, 0], 2e-4), roles={"y": RAW}).verdict == "failed"
    assert seen(raw(), off(raw(), np.s_[:, 0, 0], 2e-2), roles={"y": RAW}).verdict == "passed"


def test_a_label_is_equal_or_it_is_not() -> None:
    rows = np.ascontiguousarray(raw().transpose(0, 2, 1))[..., :6]
    rows[..., 5] = np.arange(50) % 7
    roles = {"y": (Column("boxes", 2, 0, 4), Column("scores", 2, 4, 5), Column("labels", 2, 5, 6))}
    assert seen(rows, rows, roles=roles).verdict == "passed"
    assert "labels" in seen(rows, off(rows, np.s_[:, 3, 5], 1e-4), roles=roles).explain()


def test_columns_without_a_role_are_compared_too() -> None:
    some = (Column("boxes", 1, 0, 4), Column("scores", 1, 6, 10))
    comparison = seen(raw(), off(raw(), np.s_[:, 4, 0], 0.01), Tolerances.parse({"scores": 1}), {"y": some})
    assert comparison.explain().startswith("y (columns 4 to 5 along axis 1): 0.01")


def test_the_anchors_of_a_level_lie_side_by_side() -> None:
    columns = [
        Column("boxes", 1, 0, 4),
        Column("scores", 1, 4, 6),
        Column("boxes", 1, 6, 10),
        Column("scores", 1, 10, 12),
    ]
    boxes, scores = by_role((1, 12, 5, 5), columns)
    assert (boxes.columns, str(scores)) == (((0, 4), (6, 10)), "scores, columns 4 to 5, 10 to 11 along axis 1")
    tensor = np.arange(300, dtype=np.float32).reshape(1, 12, 5, 5)
    np.testing.assert_array_equal(scores.of(tensor), tensor[:, [4, 5, 10, 11]])


def test_columns_that_do_not_fit_are_no_pieces() -> None:
    assert by_role((1, 8, 5), RAW) == []
    assert seen(raw(), off(raw(), np.s_[:, 4, 0], 1.0), roles={"y": (Column("scores", 5, 0, 1),)}).verdict == "failed"
