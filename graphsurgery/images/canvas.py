"""Puts an image on the fixed canvas a graph works on, and maps what was found there back onto the image.

The exported graph has one size, so what a library does around the network is done here in numpy: scale, place, pad,
normalise, as `preprocessing` says; then boxes, keypoints and masks back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from graphsurgery.errors import InputError
from graphsurgery.images.placement import Placement
from graphsurgery.images.preprocessing import PLAIN, Interpolation, Preprocessing, is_number

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Taps = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]

# Rows are scaled a band at a time: it stays in the processor's cache, and memory doesn't grow with the image.
_BAND_ELEMENTS = 1 << 18
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
        boxes = (_boxes(detections["boxes"]) - np.tile(corner, 2)) * np.tile(ratio, 2)
        restored["boxes"] = boxes
        if "keypoints" in detections:
            keypoints = detections["keypoints"]
            if keypoints.ndim != 3 or keypoints.shape[2] != 3:
                raise InputError(f"detections: keypoints have shape {keypoints.shape}, expected [M,K,3]")
            restored["keypoints"] = keypoints.astype(np.float32)
            restored["keypoints"][..., :2] = (restored["keypoints"][..., :2] - corner) * ratio
        if "masks" in detections and paste:
            pasted = np.zeros((len(boxes), 1, *self.original), np.float32)
            for picture, mask, box in zip(pasted, *_padded(detections["masks"], boxes), strict=True):
                _paste(mask, box, picture[0])
            restored["masks"] = pasted
        elif "masks_pasted" in detections and "masks" not in detections:
            on_canvas = self._without_padding(detections["masks_pasted"], len(boxes))
            if paste:
                pasted = np.zeros((len(boxes), 1, *self.original), np.float32)
                for picture, mask in zip(pasted, _scaled(on_canvas, self.original), strict=True):
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


def picture_masks(detections: Mapping[str, Array], size: tuple[int, int]) -> Iterator[Floats] | None:
    """Yield each mask of what restore(paste=False) gave in a picture of `size`: float32 [h,w] probabilities.

    None where there are no masks. Raises InputError when the shapes don't fit.
    """
    if "masks" in detections:
        return paste_masks(detections["masks"], detections["boxes"], size)
    if "masks_pasted" in detections:
        return _scaled(detections["masks_pasted"], size)
    return None


def _scaled(masks: Array, size: tuple[int, int]) -> Iterator[Floats]:
    for mask in masks:
        yield resize(mask.astype(np.float32), size)[0]


def paste_masks(masks: Array, boxes: Array, size: tuple[int, int]) -> Iterator[Floats]:
    """Yield each mask pasted into an empty picture of `size` (height, width): float32 [h,w] probabilities.

    `masks` are [M,1,m,m] as the network gives them, `boxes` [M,4] in the picture's pixels. Equal to
    torchvision's `paste_masks_in_image(padding=1)`, except that only the part inside the picture is computed:
    a box of any size costs no more than the picture, a box wholly outside (where torchvision may raise) gives
    an empty one, and so does a box that isn't finite. Raises InputError when the shapes don't fit.
    """

    def pictures() -> Iterator[Floats]:
        for mask, box in zip(padded, expanded, strict=True):
            picture = np.zeros(size, np.float32)
            _paste(mask, box, picture)
            yield picture

    padded, expanded = _padded(masks, _boxes(boxes))
    return pictures()


def resize(image: Array, size: tuple[int, int], interpolation: Interpolation = "bilinear") -> Floats:
    """Scale [C,h,w] to [C,*size], float32; uint8 pixels become 0..1.

    Bilinear is equal to `torch.nn.functional.interpolate(size=size, mode="bilinear", align_corners=False)`: half-pixel
    centres, clamped at the edge, no antialiasing. An image that has the size already comes back as it is.
    """
    channels, height, width = image.shape
    if (height, width) == size:
        return _unit(image)
    if interpolation != "bilinear":
        return _resized_by_pillow(image, size, interpolation)
    rows, (left, right, across) = _taps(height, size[0]), _taps(width, size[1])
    result = np.empty((channels, *size), np.float32)
    step = max(1, _BAND_ELEMENTS // (channels * width))
    for top in range(0, size[0], step):
        band = slice(top, top + step)
        picked = _unit(image[:, rows[0][band]])
        if height != size[0]:
            picked = _blend(picked, _unit(image[:, rows[1][band]]), rows[2][band, None])
        if width != size[1]:
            picked = _blend(picked.take(left, 2), picked.take(right, 2), across)
        result[:, band] = picked
    return result


def resized_window(image: Floats, size: tuple[int, int], rows: slice, columns: slice) -> Floats:
    """Return `resize(image, size)[:, rows, columns]`, of which no more than that is computed."""
    low, high, weight = _taps(image.shape[1], size[0], rows.start, rows.stop)
    tall = _blend(image[:, low], image[:, high], weight[:, None])
    low, high, weight = _taps(image.shape[2], size[1], columns.start, columns.stop)
    return _blend(tall.take(low, 2), tall.take(high, 2), weight)


def _resized_by_pillow(image: Array, size: tuple[int, int], interpolation: Interpolation) -> Floats:
    """Scale as Pillow does, which smooths where it shrinks; pixels of uint8 are rounded to uint8 again."""
    how = {
        "nearest": Image.Resampling.NEAREST,
        "pil_bilinear": Image.Resampling.BILINEAR,
        "pil_bicubic": Image.Resampling.BICUBIC,
    }[interpolation]
    planes = [Image.fromarray(np.ascontiguousarray(plane)).resize(size[::-1], how) for plane in image]
    return _unit(np.stack([np.asarray(plane) for plane in planes]))


def _taps(source: int, target: int, start: int = 0, stop: int | None = None) -> Taps:
    """The two source positions and the weight of the second, for the target positions start..stop.

    The scale is float32, as torch's, and a position is rounded once. torch's kernels round it once or twice, as the
    number of channels, the processor and the version have it: 6e-5 apart in noise of 1333 pixels.
    """
    scale = float(np.float32(source / target))
    # Python's integers and doubles take a box of 1e30 pixels; an int64 range wouldn't.
    position: Array = scale * ((start + 0.5) + np.arange((target if stop is None else stop) - start))
    at = np.maximum((position - 0.5).astype(np.float32), 0)
    low = np.minimum(at.astype(np.int64), source - 1)
    return low, np.minimum(low + 1, source - 1), (at - low).astype(np.float32)


def _blend(first: Floats, second: Floats, weight: Floats) -> Floats:
    """first * (1 - weight) + second * weight, in place; both arrays are the caller's to lose."""
    first *= 1 - weight
    second *= weight
    first += second
    return first


def _unit(pixels: Array) -> Floats:
    return np.ascontiguousarray(pixels, np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels


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


def _boxes(boxes: Array) -> Floats:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"detections: boxes have shape {boxes.shape}, expected [M,4]")
    return boxes.astype(np.float32)


def _padded(masks: Array, boxes: Floats) -> tuple[Floats, Floats]:
    """Masks with a border of one zero, [M,m+2,m+2], and boxes grown to fit (torchvision's expand_boxes)."""
    if masks.ndim != 4 or masks.shape[:2] != (len(boxes), 1) or 0 in masks.shape[2:]:
        raise InputError(f"detections: masks have shape {masks.shape}, expected [{len(boxes)},1,m,m] as boxes")
    padded = np.pad(masks[:, 0].astype(np.float32), ((0, 0), (1, 1), (1, 1)))
    scale = (masks.shape[3] + 2) / masks.shape[3]
    with np.errstate(over="ignore", invalid="ignore"):
        half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5) * np.float32(scale)
        centre = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
        return padded, np.concatenate([centre - half, centre + half], axis=1)


def _paste(mask: Floats, box: Floats, picture: Floats) -> None:
    """Write a padded mask into its grown box, both ends inclusive, truncated to whole pixels."""
    if not np.isfinite(box).all():
        return
    x0, y0, x1, y1 = (int(v) for v in box)
    height, width = picture.shape
    left, right, top, bottom = max(x0, 0), min(x1 + 1, width), max(y0, 0), min(y1 + 1, height)
    if left >= right or top >= bottom:
        return
    low, high, weight = _taps(mask.shape[1], x1 - x0 + 1, left - x0, right - x0)
    wide = _blend(mask[:, low], mask[:, high], weight)
    low, high, weight = _taps(mask.shape[0], y1 - y0 + 1, top - y0, bottom - y0)
    picture[top:bottom, left:right] = _blend(wide[low], wide[high], weight[:, None])
