"""Draws detections on their image: masks, boxes, keypoints, and a tag with class and score for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from graphsurgery.errors import InputError
from graphsurgery.images.pasting import paste_masks

Array = npt.NDArray[Any]
Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Okabe and Ito, "Color Universal Design" (2008), without black: told apart with any kind of colour vision.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
    (240, 228, 66),
)
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_MASK_OPACITY = 0.45
_SMALLEST_FONT, _LARGEST_FONT = 7, 64


def colour_of(label: int) -> Colour:
    """The colour of a class: the same in every picture."""
    return PALETTE[label % len(PALETTE)]


def draw_detections(
    image: Array,
    detections: Mapping[str, Array],
    class_names: Sequence[str] | None = None,
    score_threshold: float = 0.5,
    pasted: bool = True,
) -> Image.Image:
    """Draw every detection that scores `score_threshold` or more, the best on top.

    `image` is uint8 [h,w,3]. `detections` are in its pixels: boxes [M,4], labels [M], scores [M], and where
    there are any, masks (probabilities: [M,1,h,w], or [M,1,m,m] as the network gives them if `pasted` is
    False) and keypoints [M,K,3] (those whose third number is 0 are left out). `class_names` is indexed by
    label. Tags lie inside the picture, and are left out where not even the smallest fits. Raises InputError
    for other shapes.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(f"image: {image.dtype} {image.shape}; give uint8 [height,width,3]")
    found = _best_last(detections, score_threshold)
    height, width = image.shape[:2]
    line = max(2 if min(height, width) >= 64 else 1, round(min(height, width) / 250))
    colours = [colour_of(int(label)) for label in found["labels"]]
    picture = Image.fromarray(_with_masks(image, found, colours, line, pasted))
    draw = ImageDraw.Draw(picture)
    boxes = [_inside(box, width, height) for box in found["boxes"]]
    for box, colour in zip(boxes, colours, strict=True):
        if box is not None:
            _box(draw, box, colour, line)
    for points, colour in zip(found.get("keypoints", ()), colours, strict=False):
        _keypoints(draw, points, colour, line + 1, width, height)
    taken: list[Rectangle] = []
    # The best detection picks the place for its tag first.
    for box, colour, label, score in reversed(list(zip(boxes, colours, found["labels"], found["scores"], strict=True))):
        if box is not None:
            _tag(draw, f"{_name(int(label), class_names)} {score:.2f}", box, colour, (width, height), taken)
    return picture


def _best_last(detections: Mapping[str, Array], threshold: float) -> dict[str, Array]:
    """The detections to draw, in the order of drawing."""
    count = len(detections["boxes"])
    expected = {"boxes": (count, 4), "labels": (count,), "scores": (count,)}
    for name, shape in expected.items():
        if detections[name].shape != shape:
            raise InputError(f"detections: {name} have shape {detections[name].shape}, expected {shape}")
    order = np.argsort(detections["scores"], kind="stable")
    order = order[detections["scores"][order] >= threshold]
    found = {name: detections[name][order] for name in expected}
    for name, dimensions in (("masks", 4), ("keypoints", 3)):
        if name in detections:
            array = detections[name]
            if array.ndim != dimensions or len(array) != count:
                raise InputError(f"detections: {name} have shape {array.shape} beside {count} boxes")
            found[name] = array[order]
    return found


def _with_masks(image: Array, found: dict[str, Array], colours: list[Colour], line: int, pasted: bool) -> Array:
    """A copy of the image with translucent masks, each with a contour `line` pixels wide."""
    painted = image.copy()
    if "masks" not in found:
        return painted
    size = (image.shape[0], image.shape[1])
    if pasted and found["masks"].shape[1:] != (1, *size):
        raise InputError(f"detections: masks have shape {found['masks'].shape}, expected [M,1,{size[0]},{size[1]}]")
    masks = found["masks"][:, 0] if pasted else paste_masks(found["masks"], found["boxes"], size)
    for mask, colour in zip(masks, colours, strict=True):
        inside = mask > 0.5
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        if not len(rows):
            continue
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        inside = inside[window]
        pixels = painted[window]
        blended = pixels[inside] * (1 - _MASK_OPACITY) + np.array(colour) * _MASK_OPACITY
        pixels[inside] = np.rint(blended).astype(np.uint8)
        pixels[inside & ~_eroded(inside, line)] = colour
    return painted


def _eroded(inside: Array, times: int) -> Array:
    """The mask without the outer `times` pixels; what lies beyond the array counts as outside."""
    for _ in range(times):
        padded = np.pad(inside, 1)
        inside = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside


def _inside(box: Array, width: int, height: int) -> Rectangle | None:
    """The box in whole pixels, cut at the picture's edge; None where nothing of it lies in the picture."""
    if not np.isfinite(box).all():
        return None
    x0, y0, x1, y1 = (float(v) for v in box)
    if x1 < 0 or y1 < 0 or x0 >= width or y0 >= height or x1 < x0 or y1 < y0:
        return None
    left, top, right, bottom = (
        round(min(max(at, 0), limit - 1)) for at, limit in ((x0, width), (y0, height), (x1, width), (y1, height))
    )
    return left, top, right, bottom


def _contrast(colour: Colour) -> Colour:
    """Black or white, whichever stands out from the colour (relative luminance of WCAG 2.1)."""
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _BLACK if luminance > 0.179 else _WHITE


def _box(draw: ImageDraw.ImageDraw, box: Rectangle, colour: Colour, line: int) -> None:
    """A line in the class's colour with a thin black or white one around it, to be seen on any background."""
    x0, y0, x1, y1 = box
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=_contrast(colour))
    draw.rectangle(box, outline=colour, width=line)


def _keypoints(draw: ImageDraw.ImageDraw, points: Array, colour: Colour, radius: int, width: int, height: int) -> None:
    for x, y, visible in points:
        if visible > 0 and 0 <= x < width and 0 <= y < height:
            for reach, fill in ((radius + 1, _contrast(colour)), (radius, colour)):
                draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=fill)


def _name(label: int, class_names: Sequence[str] | None) -> str:
    if class_names is None or not 0 <= label < len(class_names):
        return f"class {label}"
    return " ".join(class_names[label].split())


def _tag(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: Rectangle,
    colour: Colour,
    size: tuple[int, int],
    taken: list[Rectangle],
) -> None:
    """Write the text on a ground of the class's colour."""
    font = _fitting(text, size)
    if font is None:
        return
    place = tag_place(_extent(text, font), box, size, taken)
    taken.append(place)
    draw.rectangle(place, fill=colour)
    left, top, pad = font.getbbox(text)[0], _vertical(font)[0], _pad(font)
    draw.text((place[0] + pad - left, place[1] + pad - top), text, fill=_contrast(colour), font=font)


def tag_place(extent: tuple[int, int], box: Rectangle, size: tuple[int, int], taken: Sequence[Rectangle]) -> Rectangle:
    """Where the tag of a box goes: the first corner at which it covers no other tag, moved into the picture.

    `extent` and `size` are the tag's and the picture's width and height; the tag is no larger than the
    picture. Rectangles are left, top, right, bottom in pixels, the last ones included. Without a free corner
    it is the first.
    """
    width, height = extent
    x0, y0, x1, y1 = box
    corners = (
        (x0, y0 - height),
        (x0, y0),
        (x0, y1 + 1),
        (x1 + 1 - width, y0 - height),
        (x0, y1 + 1 - height),
    )
    moved = [(min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height)) for x, y in corners]
    places = [(x, y, x + width - 1, y + height - 1) for x, y in moved]
    return next((p for p in places if not any(_overlap(p, other) for other in taken)), places[0])


def _fitting(text: str, size: tuple[int, int]) -> Font | None:
    """The built-in font, sized to the picture, smaller where the tag would not fit; None if none does."""
    largest = min(max(round(min(size) / 36), 11), _LARGEST_FONT)
    for points in range(largest, _SMALLEST_FONT - 1, -1):
        font = ImageFont.load_default(points)
        width, height = _extent(text, font)
        if width <= size[0] and height <= size[1]:
            return font
    return None


def _pad(font: Font) -> int:
    return max(1, round(getattr(font, "size", 10) / 6))


def _vertical(font: Font) -> tuple[float, float]:
    """Top and bottom of a line of text, the same for every tag."""
    _, top, _, bottom = font.getbbox("Ag")
    return top, bottom


def _extent(text: str, font: Font) -> tuple[int, int]:
    """Width and height of the tag in pixels."""
    left, _, right, _ = font.getbbox(text)
    top, bottom = _vertical(font)
    return round(right - left) + 2 * _pad(font), round(bottom - top) + 2 * _pad(font)


def _overlap(first: Rectangle, second: Rectangle) -> bool:
    return first[0] <= second[2] and second[0] <= first[2] and first[1] <= second[3] and second[1] <= first[3]
