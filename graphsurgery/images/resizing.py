"""Scales images as the libraries around networks do."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from graphsurgery.images.preprocessing import Interpolation

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Taps = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]

# Rows are scaled a band at a time: it stays in the processor's cache, and memory doesn't grow with the image.
_BAND_ELEMENTS = 1 << 18


def resize(image: Array, size: tuple[int, int], interpolation: Interpolation = "bilinear") -> Floats:
    """Scale [C,h,w] to [C,*size], float32; uint8 pixels become 0..1.

    Bilinear is equal to `torch.nn.functional.interpolate(size=size, mode="bilinear", align_corners=False)`: half-pixel
    centres, clamped at the edge, no antialiasing. An image that has the size already comes back as it is.
    """
    channels, height, width = image.shape
    if (height, width) == size:
        return _unit(image)
    if interpolation == "cv2_bilinear":
        return _resized_by_opencv(image, size)
    if interpolation != "bilinear":
        return _resized_by_pillow(image, size, interpolation)
    rows, (left, right, across) = taps(height, size[0]), taps(width, size[1])
    result = np.empty((channels, *size), np.float32)
    step = max(1, _BAND_ELEMENTS // (channels * width))
    for top in range(0, size[0], step):
        band = slice(top, top + step)
        picked = _unit(image[:, rows[0][band]])
        if height != size[0]:
            picked = blend(picked, _unit(image[:, rows[1][band]]), rows[2][band, None])
        if width != size[1]:
            picked = blend(picked.take(left, 2), picked.take(right, 2), across)
        result[:, band] = picked
    return result


def resized_window(image: Floats, size: tuple[int, int], rows: slice, columns: slice) -> Floats:
    """Return `resize(image, size)[:, rows, columns]`, of which no more than that is computed."""
    low, high, weight = taps(image.shape[1], size[0], rows.start, rows.stop)
    tall = blend(image[:, low], image[:, high], weight[:, None])
    low, high, weight = taps(image.shape[2], size[1], columns.start, columns.stop)
    return blend(tall.take(low, 2), tall.take(high, 2), weight)


def _resized_by_opencv(image: Array, size: tuple[int, int]) -> Floats:
    """Scale bilinearly; pixels of uint8 are rounded to uint8 again, as OpenCV does it.

    Its weights are 11 bits wide (INTER_RESIZE_COEF_BITS), so a pixel next to a half may be one level off.
    """
    if image.dtype != np.uint8:
        return resize(image, size)
    levels: Floats = np.floor(resize(image.astype(np.float32), size) + np.float32(0.5))
    return levels / np.float32(255)


def _resized_by_pillow(image: Array, size: tuple[int, int], interpolation: Interpolation) -> Floats:
    """Scale as Pillow does, which smooths where it shrinks; pixels of uint8 are rounded to uint8 again."""
    how = {
        "nearest": Image.Resampling.NEAREST,
        "pil_bilinear": Image.Resampling.BILINEAR,
        "pil_bicubic": Image.Resampling.BICUBIC,
    }[interpolation]
    planes = [Image.fromarray(np.ascontiguousarray(plane)).resize(size[::-1], how) for plane in image]
    return _unit(np.stack([np.asarray(plane) for plane in planes]))


def taps(source: int, target: int, start: int = 0, stop: int | None = None) -> Taps:
    """Return the two source positions and the weight of the second, for the target positions start..stop.

    The scale is float32, as torch's, and a position is rounded once. torch's kernels round it once or twice, as the
    number of channels, the processor and the version have it: 6e-5 apart in noise of 1333 pixels.
    """
    scale = float(np.float32(source / target))
    # Python's integers and doubles take a box of 1e30 pixels; an int64 range wouldn't.
    position: Array = scale * ((start + 0.5) + np.arange((target if stop is None else stop) - start))
    at = np.maximum((position - 0.5).astype(np.float32), 0)
    low = np.minimum(at.astype(np.int64), source - 1)
    return low, np.minimum(low + 1, source - 1), (at - low).astype(np.float32)


def blend(first: Floats, second: Floats, weight: Floats) -> Floats:
    """Return first * (1 - weight) + second * weight, in place; both arrays are the caller's to lose."""
    first *= 1 - weight
    second *= weight
    first += second
    return first


def _unit(pixels: Array) -> Floats:
    return np.ascontiguousarray(pixels, np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels
