"""What images that are scaled are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

HALF_ULP = 2.0**-24  # the most that rounding to float32 changes a number, as part of that number


def noise(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(height * 10007 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def interpolated(image: Any, size: tuple[int, int]) -> Any:
    """What torch's bilinear interpolation is in float64, where no rounding shows.

    Its float32 is no reference: it differs between versions, processors and numbers of threads, each time by as much
    as `rounding()` allows.
    """
    torch = pytest.importorskip("torch")
    options = {"size": size, "mode": "bilinear", "align_corners": False}
    return torch.nn.functional.interpolate(torch.from_numpy(image).double()[None], **options)[0].numpy()


def rounding(source: tuple[int, int], size: tuple[int, int]) -> Any:
    """How far float32 may be from float64, for each pixel of an image of values in 0..1 that is scaled to `size`.

    A position p is off by 2 * HALF_ULP * p: the scale is rounded, and the position. Values in 0..1 change by 1 a pixel
    at most, so that is the error of the value, of each axis. A blend rounds one weight, a product and the sum: 3 for
    each axis, and one for the terms of second order.
    """
    rows, columns = ((np.arange(size[axis]) + 0.5) * source[axis] / size[axis] for axis in (0, 1))
    return HALF_ULP * (2 * (rows[:, None] + columns) + 7)


def assert_within(actual: Any, expected: Any, allowed: Any) -> None:
    """`allowed` is for each pixel, as rounding() gives it."""
    assert actual.shape == expected.shape
    assert np.all(np.abs(actual - expected) <= allowed), f"{np.max(np.abs(actual - expected) / allowed):.3g} times"


def planar(image: Any) -> Any:
    return np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
