"""A picture that PyAV decoded, as pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphsurgery.errors import InputError

_MOST_PIXELS = 2**25  # 8K has 33 million


def pixels_of(picture: Any, name: str) -> np.ndarray:
    """Return a picture as uint8 RGB [h, w, 3], turned as its file says. Raises InputError for one that is too large.

    A file says how it is turned by FFmpeg's display matrix, an angle against the clock's sense; phones write it.
    """
    if picture.width * picture.height > _MOST_PIXELS:
        raise InputError(
            f"{name}: {picture.width} x {picture.height} is more than {_MOST_PIXELS} pixels; scale it down"
        )
    pixels: np.ndarray = picture.to_ndarray(format="rgb24")
    quarters = round((picture.rotation or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels
