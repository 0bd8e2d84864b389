"""Small videos for tests: a column of red that moves from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from graphsurgery.video.writer import VideoWriter

RATE = Fraction(25)


def picture(number: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Return noise of height and width `size` with a red column whose place tells the number."""
    pixels = np.random.default_rng(0).integers(0, 60, (*size, 3), dtype=np.uint8)
    pixels[:, number * 2 % size[1] :][:, :8] = (250, 10, 10)
    return pixels


def write(
    path: Path, frames: int, size: tuple[int, int] = (48, 64), times: Sequence[int] = (), tick: Fraction = 1 / RATE
) -> Path:
    """Write a video, its frames at `times` of so many `tick`s, one after another where none are given."""
    writer = VideoWriter(path, RATE)
    for number in range(frames):
        writer.write(picture(number, size), times[number] if times else number, tick)
    writer.close()
    return path


def damage(path: Path) -> Path:
    """Overwrite a tenth in the middle of a file with zeros."""
    content = bytearray(path.read_bytes())
    begin, length = len(content) // 2, len(content) // 10
    content[begin : begin + length] = bytes(length)
    path.write_bytes(content)
    return path


def turn(path: Path) -> Path:
    """Have an MP4 say that it is to be shown a quarter turn with the clock, as a phone that is held upright does."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 20 + 16
    matrix = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    content[at : at + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in matrix)
    path.write_bytes(content)
    return path
