"""Puts an image on the fixed canvas a graph works on, and maps what was found there back onto the image.

The exported graph has one size, so what a library does around the network is done here in numpy: scale, place, pad,
normalise, as `preprocessing` says; then boxes, keypoints and masks back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from graphsurgery.errors import InputError
from graphsurgery.images.pasting import corners, paste_into, scaled_masks
from graphsurgery.images.placement import Placement
from graphsurgery.images.preprocessing import PLAIN, Preprocessing, is_number
from graphsurgery.images.resizing import resize

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_LARGEST_MARGIN = 2**10  # it fills up to a multiple of what a network shrinks its image by
_MOST_PIXELS = 2**25  # 0.4 GB in float32, which is there several times


@dataclass(frozen=True)
class Canvas:
    """The fixed size that a graph works on, and how an image becomes what its network reads.

    `height` and `width` are in pixels. `image` is what the network wants; `mean` and `std`, both or neither, are what a
    graph did behind that and the runtime does now, per channel for pixels as the graph had them. `margin` counts the
    rows below and the columns to the right of the canvas that are 0 behind that. Raises InputError for anything else.
    """

    height: int
    width: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image: Preprocessing = PLAIN
    margin: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        for name, size in (("height", self.height), ("width", self.width)):
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _MOST_PIXELS:
                seen = repr(size)[:40]
                raise InputError(f"canvas: {name} is {seen}; give a whole number of pixels, 1 or more, not millions")
        if self.height * self.width > _MOST_PIXELS:
            raise InputError(
                f"canvas: {self.height} x {self.width} is more than {_MOST_PIXELS} pixels; take a smaller one"
            )
        if len(self.margin) != 2 or not all(type(more) is int and 0 <= more <= _LARGEST_MARGIN for more in self.margin):
            raise InputError(
                f"canvas: margin is {str(self.margin)[:40]}; give two whole numbers, 0 to {_LARGEST_MARGIN}"
            )
        if (self.mean is None) != (self.std is None):
            raise InputError("canvas: only one of mean and std is given; give both or neither")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and (len(values) != 3 or not all(math.isfinite(v) for v in values)):
                raise InputError(f"canvas: {name} is {str(values)[:60]}; give three finite numbers")
        if self.std is not None and min(self.std) <= 0:
            raise InputError(f"canvas: std is {self.std!r}; every value must be above 0")

    def with_normalisation(
        self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None, margin: tuple[int, int] = (0, 0)
    ) -> Canvas:
        """Return the same canvas for a network that wants other pixels; what surrounds an image stays what it was.

        Raises InputError where the two can't go together.
        """
        own = self.image
        if own.mean is not None or own.std is not None or (own.layout, own.dtype) != ("NCHW", "float32"):
            raise InputError(
                "the graph normalised float32 pixels [3,H,W] by itself, and image says that it wants others; leave out "
                "the pass that takes the normalisation from the graph, or mean, std, layout and dtype of image"
            )
        if own.pad is None and self.mean is None and mean is not None:
            own = replace(own, pad=0.0)  # not the mean, which this canvas didn't know
        return replace(self, mean=mean, std=std, image=own, margin=margin)

    def to_json(self) -> dict[str, object]:
        """What from_json() reads back, as JSON knows it."""
        own = {"height": self.height, "width": self.width, "mean": self.mean, "std": self.std}
        more = {"image": self.image.to_json(), "margin": self.margin if any(self.margin) else None}
        every = own | {name: value for name, value in more.items() if value}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in every.items()}

    @classmethod
    def from_json(cls, value: object) -> Canvas:
        """Read what to_json() gave; raises InputError when `value` is not that."""
        if not isinstance(value, dict) or set(value) - {"image", "margin"} != {"height", "width", "mean", "std"}:
            raise InputError(f"canvas: expected height, width, mean and std, got {str(value)[:60]}")
        for name in ("mean", "std"):
            numbers = value[name]
            if numbers is not None and not (isinstance(numbers, list | tuple) and all(map(is_number, numbers))):
                raise InputError(f"canvas: {name} is {str(numbers)[:60]}; expected a list of numbers or null")
        mean, std = (None if value[n] is None else tuple(float(v) for v in value[n]) for n in ("mean", "std"))
        margin = value.get("margin", (0, 0))
        if not isinstance(margin, list | tuple):
            raise InputError(f"canvas: margin is {str(margin)[:60]}; expected a list of two numbers")
        image = Preprocessing.from_json(value.get("image", {}))
        return cls(value["height"], value["width"], mean, std, image, tuple(margin))

    def fit(self, image: Array) -> CanvasImage:
        """Lay an image on the canvas as `image` says.

        `image` is uint8 [h,w,3] in 0..255 or float32 [3,h,w] in 0..1. Raises InputError for anything else.
        """
        planes = _planes(image)
        original = (planes.shape[1], planes.shape[2])
        height, width, top, left = self.image.placement(original, (self.height, self.width))
        placed = np.empty((3, self.height, self.width), np.float32)
        placed[:] = self.image.padding(self.mean)[:, None, None]
        placed[:, top : top + height, left : left + width] = resize(planes, (height, width), self.image.interpolation)
        return CanvasImage(placed, height, width, original, top, left)

    def placed(self, input: Floats, original: tuple[int, int]) -> CanvasImage:
        """Return a canvas that `fit` filled with an image of the size `original` (height, width)."""
        height, width, top, left = self.image.placement(original, (self.height, self.width))
        return CanvasImage(input, height, width, original, top, left)

    def normalise(self, input: Floats) -> Array:
        """Return what the backbone reads, float32 [1,3,H,W] and its margin: (input - mean) / std.

        Padding by the mean becomes exactly 0.
        """
        pixels = self.image.apply(input)
        if self.mean is not None:
            mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (self.mean, self.std))
            pixels = (pixels - mean) / std
        if any(self.margin):
            pixels = np.pad(pixels, ((0, 0), (0, self.margin[0]), (0, self.margin[1])))
        normalised: Array = pixels[None]
        return normalised

    def pixel(self, value: float) -> npt.NDArray[np.float64]:
        """What the network reads of a pixel that is `value`, 0..1, in all channels: [3], in the network's order."""
        one: Array = np.full((3, 1, 1), value, np.float32)
        read = self.image.apply(one) if self.mean is None else self.normalise(one)
        return read.reshape(3).astype(np.float64)


@dataclass(frozen=True, eq=False)
class CanvasImage:
    """An image on a canvas.

    `input` is the whole canvas, float32 [3,H,W] in 0..1, red first; the image fills `height` x `width` pixels from
    `top` and `left` on. `original` is the image's own size (height, width).
    """

    input: Floats
    height: int
    width: int
    original: tuple[int, int]
    top: int = 0
    left: int = 0

    @property
    def placement(self) -> Placement:
        """Where the image lies."""
        height, width = self.input.shape[1:]
        return Placement((height, width), self.original, self.height, self.width, self.top, self.left)

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The whole canvas in 8 bits, [H,W,3], red first."""
        return np.ascontiguousarray(np.rint(self.input.transpose(1, 2, 0) * 255).astype(np.uint8))

    @property
    def filled(self) -> Floats:
        """The part of the canvas that the image fills, [3,height,width]."""
        return self.input[:, self.top : self.top + self.height, self.left : self.left + self.width]

    def restore(self, detections: Mapping[str, Array], paste: bool = True) -> dict[str, Array]:
        """Map detections from canvas pixels to the original image's, as torchvision's postprocess does.

        `boxes` [M,4] and `keypoints` [M,K,3] are moved, scaled per axis by original/resized and not clipped. `masks`
        become [M,1,h,w] probabilities: those of the network [M,1,m,m] are pasted, and where there are none
        `masks_pasted` [M,1,H,W], which the graph itself has pasted on the canvas, are scaled to the image. Unless
        `paste` is False: then they stay what they are, `masks_pasted` without the padding, since in the image they take
        4*M*h*w bytes, and picture_masks() gives one at a time. All else stays. Raises InputError when an array has
        another shape.
        """
        restored = {name: array for name, array in detections.items() if name != "masks_pasted"}
        ratio_y, ratio_x = (
            np.float32(size) / np.float32(fitted)
            for size, fitted in zip(self.original, (self.height, self.width), strict=True)
        )
        corner = np.array([self.left, self.top], np.float32)
        ratio = np.array([ratio_x, ratio_y], np.float32)
        boxes = (corners(detections["boxes"]) - np.tile(corner, 2)) * np.tile(ratio, 2)
        restored["boxes"] = boxes
        if "keypoints" in detections:
            keypoints = detections["keypoints"]
            if keypoints.ndim != 3 or keypoints.shape[2] != 3:
                raise InputError(f"detections: keypoints have shape {keypoints.shape}, expected [M,K,3]")
            restored["keypoints"] = keypoints.astype(np.float32)
            restored["keypoints"][..., :2] = (restored["keypoints"][..., :2] - corner) * ratio
        if "masks" in detections and paste:
            pasted = np.zeros((len(boxes), 1, *self.original), np.float32)
            paste_into(pasted[:, 0], detections["masks"], boxes)
            restored["masks"] = pasted
        elif "masks_pasted" in detections and "masks" not in detections:
            on_canvas = self._without_padding(detections["masks_pasted"], len(boxes))
            if paste:
                pasted = np.zeros((len(boxes), 1, *self.original), np.float32)
                for picture, mask in zip(pasted, scaled_masks(on_canvas, self.original), strict=True):
                    picture[0] = mask
                restored["masks"] = pasted
            else:
                restored["masks_pasted"] = on_canvas
        return restored

    def _without_padding(self, masks: Array, count: int) -> Array:
        expected = (count, 1, *self.input.shape[1:])
        if masks.shape != expected:
            raise InputError(f"detections: masks_pasted have shape {masks.shape}, expected {list(expected)} as boxes")
        return masks[:, :, self.top : self.top + self.height, self.left : self.left + self.width]


def _planes(image: Array) -> Array:
    """Any image that fit() takes as [3,h,w], not yet converted."""
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        planes = image.transpose(2, 0, 1)
    elif image.dtype == np.float32 and image.ndim == 3 and image.shape[0] == 3:
        planes = image
    else:
        raise InputError(f"image: {image.dtype} {image.shape}; give uint8 [height,width,3] or float32 [3,height,width]")
    if planes.size == 0:
        raise InputError(f"image: shape {image.shape} has no pixel")
    if image.dtype == np.float32:
        low, high = image.min(), image.max()
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise InputError(f"image: float32 pixels from {low:g} to {high:g}; scale them to 0..1, or give uint8")
    return planes
