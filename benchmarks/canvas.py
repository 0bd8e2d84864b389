"""A video frame placed on the canvas, against the same by Pillow and NumPy, side by side.

    python benchmarks/canvas.py

Both scale a frame of 1080 x 1920 to 540 x 960, normalise it and pad it to 544 x 960, with two threads at most. They
take turns; the ratio is the median over the rounds. Goal: at most 1.0, so that a camera's frames don't wait for the
canvas.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from graphsurgery.images.canvas import Canvas

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ROUNDS = 21


def by_pillow(frame: np.ndarray) -> np.ndarray:
    """Do what the canvas does with what everybody has at hand."""
    small = np.asarray(Image.fromarray(frame).resize((960, 540), Image.Resampling.BILINEAR), np.float32) / 255
    canvas = np.zeros((3, 544, 960), np.float32)
    canvas[:, :540] = ((small - np.array(MEAN, np.float32)) / np.array(STD, np.float32)).transpose(2, 0, 1)
    return canvas


def seconds(work: Callable[[np.ndarray], object], frame: np.ndarray) -> float:
    """Time one call."""
    start = time.perf_counter()
    work(frame)
    return time.perf_counter() - start


def main() -> None:
    """Print milliseconds and ratio."""
    frame = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    canvas = Canvas(544, 960, MEAN, STD)
    rounds = [(seconds(canvas.fit, frame), seconds(by_pillow, frame)) for _ in range(ROUNDS)]
    ours, theirs = (1000 * statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"canvas {ours:.1f} ms, Pillow and NumPy {theirs:.1f} ms, ", end="")
    print(f"ratio {statistics.median(a / b for a, b in rounds):.2f} (median of {ROUNDS})")


if __name__ == "__main__":
    main()
