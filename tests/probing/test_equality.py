"""What is computed against what is expected."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphsurgery.probing.equality import compare

ROWS = np.array([[0, 0, 3], [0, 0, 1]], np.int64)


def test_equal_is_infinitely_near() -> None:
    assert compare({"y": ROWS}, {"y": ROWS.copy()}).decibels == math.inf


def test_a_tail_that_repeats_the_last_row_is_told_and_the_rows_before_it_compared() -> None:
    found = compare({"y": ROWS}, {"y": np.concatenate([ROWS, ROWS[1:], ROWS[1:]])})
    assert found.decibels == math.inf
    assert found.remark == "4 rows where there are 2: the last one is repeated"


@pytest.mark.parametrize(
    ("fill", "told"), [([[-1, -1, -1]], "the rest is -1"), ([[1, 2, 3]], "the rest is something else")]
)
def test_another_tail_is_told(fill: list[list[int]], told: str) -> None:
    assert str(compare({"y": ROWS}, {"y": np.concatenate([ROWS, fill])}).remark).endswith(told)


def test_another_shape_has_nothing_in_common() -> None:
    found = compare({"y": ROWS}, {"y": ROWS.T})
    assert found.decibels == -math.inf
    assert not found.holds("int8")


def test_what_may_come_in_any_order_is_compared_as_a_set() -> None:
    assert compare({"y": ROWS}, {"y": ROWS[:, ::-1]}, unordered=True).decibels == math.inf


def test_the_output_that_is_off_most_counts() -> None:
    one = np.ones(100, np.float32)
    found = compare({"a": one, "b": one}, {"a": one, "b": one * np.float32(1.2)})
    assert found.decibels == pytest.approx(14, abs=0.1)
    assert found.holds("int8")
    assert not found.holds("float16")


def test_what_has_become_nan_is_wrong() -> None:
    assert not compare({"y": np.ones(2, np.float32)}, {"y": np.array([1, np.nan], np.float32)}).holds("int8")
