"""A picture of a video, its number and its time."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class Frame:
    """A frame: uint8 RGB `pixels` [h, w, 3], upright, and `ticks` of so many seconds each since the first frame.

    `number` counts from 0: in a file the frames that could be read, at a camera all that it gave.
    """

    number: int
    pixels: np.ndarray
    ticks: int
    tick: Fraction

    @property
    def seconds(self) -> float:
        """The time since the first frame."""
        return float(self.ticks * self.tick)
