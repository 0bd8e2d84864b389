from __future__ import annotations

import numpy as np
import pytest

from graphsurgery.images.resizing import resize, resized_window

from .scaled import assert_within, interpolated, noise, planar, rounding


def test_resize_leaves_its_argument_alone() -> None:
    image = planar(noise(40, 40))
    kept = image.copy()
    resize(image, (40, 80))
    resize(image, (80, 40))
    resize(image, (17, 99))
    assert np.array_equal(image, kept)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (600, 700)])
def test_resize_of_one_channel_equals_interpolate(size: tuple[int, int]) -> None:
    image = np.random.default_rng(5).random((1, 300, 1333), dtype=np.float32)
    assert_within(resize(image, size), interpolated(image, size), rounding((300, 1333), size))


@pytest.mark.parametrize("size", [(9, 50), (30, 12), (20, 40)])
def test_a_window_is_that_of_the_whole(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((2, 20, 40), np.float32)
    rows, columns = slice(2, 7), slice(3, 11)
    np.testing.assert_array_equal(resized_window(image, size, rows, columns), resize(image, size)[:, rows, columns])
