"""RoIAlign written out sample by sample, and regions to try it on: ties of levels, empty ones, outside, tiny."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def pyramid(channels: int, seed: int = 0) -> list[Array]:
    """Return four levels of features of two images of 256 x 320."""
    random = np.random.default_rng(seed)
    shapes = [(2, channels, 256 // stride, 320 // stride) for stride in (4, 8, 16, 32)]
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def regions(count: int, seed: int) -> Array:
    """Return regions [K, 5] of (image, x1, y1, x2, y2), of all sizes, the first few of them special.

    Sizes whose number of samples a rounding decides are not among the others.
    """
    random = np.random.default_rng(seed)
    special = [
        (0, 10, 10, 10, 10),  # empty
        (0, 10, 10, 90, 10),
        (1, 40, 20, 40, 200),
        (0, 33, 47, 34, 48),  # below one cell
        (1, 33, 47, 34, 148),
        (0, 33, 47, 134, 48),
        (0, 5, 5, 117, 117),  # sqrt(w * h) is 112: a tie of two levels
        (1, 20, 10, 244, 234),  # 224
        (0, -40, -40, 30, 30),  # across the border and outside of it
        (1, 300, 240, 380, 300),
        (0, 400, 400, 500, 500),
    ]
    corner = random.uniform(-20, 300, (count, 2))
    side = np.exp(random.uniform(-2, 5.5, (count, 2))) + 0.0137
    image = random.integers(0, 2, (count, 1))
    drawn = np.concatenate([image, corner, corner + side], axis=1)
    return np.concatenate([np.array(special), drawn]).astype(np.float32)


def bin_averages(
    features: Array, x: float, y: float, height: float, width: float, bins: tuple[int, int], ratio: int
) -> Array:
    """Return the average of the samples in each bin of a region that begins at (x, y), all in cells: [C, h, w]."""
    rows, columns = bins
    down = ratio if ratio > 0 else math.ceil(float(np.float32(height) / np.float32(rows)))
    across = ratio if ratio > 0 else math.ceil(float(np.float32(width) / np.float32(columns)))
    result = np.zeros((features.shape[0], rows, columns))
    for row, column in np.ndindex(rows, columns):
        for i in range(max(down, 0)):
            for j in range(max(across, 0)):
                at_y = y + row * height / rows + (i + 0.5) * height / rows / down
                at_x = x + column * width / columns + (j + 0.5) * width / columns / across
                result[:, row, column] += interpolated(features, float(at_y), float(at_x))
    return result / max(down * across, 1)


def interpolated(features: Array, y: float, x: float) -> Array:
    """Return the features [C] at a point: zeros outside, the border's near it."""
    height, width = features.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(features.shape[0])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    upper = features[:, top, left] * (1 - across) + features[:, top, right] * across
    lower = features[:, bottom, left] * (1 - across) + features[:, bottom, right] * across
    return upper * (1 - down) + lower * down
