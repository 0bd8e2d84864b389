from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from graphsurgery.images.pasting import paste_masks


@pytest.mark.parametrize(
    "box",
    [
        (200, 10, 240, 40),
        (-300, 10, -240, 40),
        (10, 300, 40, 320),
        (10, -90, 40, -50),
        (float("nan"), 0, 5, 5),
        (0, 0, float("inf"), 5),
        (float("-inf"), 0, 5, float("inf")),
        (0, 0, 3.4e38, 3.4e38),
        (50, 50, 20, 20),
    ],
)
def test_a_mask_outside_the_picture_or_without_place_leaves_it_empty(box: tuple[float, ...]) -> None:
    (picture,) = paste_masks(np.ones((1, 1, 28, 28), np.float32), np.array([box], np.float32), (60, 80))
    assert picture.shape == (60, 80)
    assert not picture.any()


@pytest.mark.parametrize("far", [1e6, 1e12, 1e30])
def test_a_huge_box_shows_its_middle_and_takes_no_memory(far: float) -> None:
    mask = np.zeros((1, 1, 28, 28), np.float32)
    mask[0, 0, 13:15, 13:15] = 0.75
    tracemalloc.start()
    (picture,) = paste_masks(mask, np.array([[-far, -far, far, far]], np.float32), (60, 80))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(picture, 0.75, rtol=0, atol=1e-5)
    assert peak < 1e6
