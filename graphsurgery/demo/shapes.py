"""Random circles, squares and triangles with exact masks: the data set that the embedded default works on.

An image depends on its seed, index and size alone. No function of the platform's math library is called and
every random number is an integer or a uniform double, so that all platforms draw the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graphsurgery.errors import InputError
from graphsurgery.files.temporary import reserved, written_whole
from graphsurgery.images.run_lengths import Mask, encode_rle

HEIGHT, WIDTH = 256, 320
TRAIN_SEED, VAL_SEED = 1, 2
# Of this series the checkpoint finds nothing in the empty image, as it should.
CAPTURE_SEED = 20
CATEGORIES = {1: "circle", 2: "square", 3: "triangle"}

_PORTRAIT = (300, 200)
_MAX_OBJECTS = 6
_EMPTY_SHARE = 0.05
_RADII = (14.0, 54.0)
_MIN_VISIBLE_SHARE = 0.4
_NOISE = 14
_MIN_CONTRAST = 60
# an image as COCO's "images" lists it, and its objects as "annotations" does, but for their ids
_Described = tuple[dict[str, Any], list[dict[str, Any]]]
_PNG_LEVEL = 0  # stored as they are: the noise gets a quarter smaller at most, which takes as long as drawing

# Corners on the unit circle; a square's side is then sqrt(2), a triangle's sqrt(3).
_HALF_SQRT2, _HALF_SQRT3 = 0.7071067811865476, 0.8660254037844386
_CORNERS = {
    2: np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * _HALF_SQRT2,
    3: np.array([[1, 0], [-0.5, _HALF_SQRT3], [-0.5, -_HALF_SQRT3]]),
}


@dataclass(frozen=True, eq=False)
class ShapeImage:
    """An image and its objects, in the order they were painted.

    `image` is uint8 RGB (H, W, 3). `boxes` is float32 (N, 4): x0, y0, x1, y1 in pixels, x1 and y1 exclusive,
    tight around the visible pixels. `labels` is int64 (N,), keys of `CATEGORIES`. `masks` is bool (N, H, W):
    the visible pixels, so no two overlap.
    """

    image_id: int
    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: Mask


def draw(seed: int, index: int, *, size: tuple[int, int] = (HEIGHT, WIDTH), objects: int | None = None) -> ShapeImage:
    """Draw image `index` of the series `seed`; its id is `index + 1`.

    `size` is (height, width) in pixels. `objects` is how many are tried, drawn at random if it is None. One
    that would hide most of an earlier one is left out, so every shape that can be seen is labelled.
    """
    rng = np.random.default_rng([seed, index])
    height, width = size
    pixels, palette = _background(rng, height, width)
    if objects is None:
        objects = 0 if rng.random() < _EMPTY_SHARE else int(rng.integers(1, _MAX_OBJECTS + 1))

    labels: list[int] = []
    masks: list[Mask] = []
    areas: list[int] = []
    for _ in range(objects):
        label, mask = _shape(rng, height, width)
        colour = _contrasting_colour(rng, palette)
        remains = [earlier & ~mask for earlier in masks]
        hides_one = any(rest.sum() < _MIN_VISIBLE_SHARE * area for rest, area in zip(remains, areas, strict=True))
        if hides_one:
            continue
        pixels[mask] = colour
        labels.append(label)
        masks = [*remains, mask]
        areas.append(int(mask.sum()))

    noise = rng.integers(-_NOISE, _NOISE + 1, size=pixels.shape)
    image = np.clip(np.floor(pixels) + noise, 0, 255).astype(np.uint8)
    stacked = np.array(masks, dtype=np.bool_).reshape(-1, height, width)
    boxes = np.array([_extent(mask) for mask in masks], dtype=np.float32).reshape(-1, 4)
    return ShapeImage(index + 1, image, boxes, np.array(labels, dtype=np.int64), stacked)


def generate(images: int, seed: int) -> Iterator[ShapeImage]:
    """Yield the first `images` images of the series `seed`, ids from 1, all of HEIGHT x WIDTH pixels."""
    for index in range(images):
        yield draw(seed, index)


def embedded_images(count: int) -> list[ShapeImage]:
    """Return the sample images that a capture uses unless it is given others.

    The second has another size than HEIGHT x WIDTH and the third shows no object at all, so a count of three
    or more covers what a single ordinary image can't. Raises InputError for a count below 1.
    """
    if count < 1:
        raise InputError(f"embedded images: {count} were asked for; ask for at least 1")
    images = []
    for index in range(count):
        size = _PORTRAIT if index == 1 else (HEIGHT, WIDTH)
        objects = 0 if index == 2 else _MAX_OBJECTS - 2
        images.append(draw(CAPTURE_SEED, index, size=size, objects=objects))
    return images


def coco_annotations(images: Iterable[ShapeImage]) -> dict[str, Any]:
    """Describe images in COCO's instances format: boxes as x, y, width, height, masks as uncompressed RLE."""
    return _instances(_described(shown, ".png") for shown in images)


def _described(shown: ShapeImage, suffix: str) -> _Described:
    height, width = shown.image.shape[:2]
    objects = [
        {
            "image_id": shown.image_id,
            "category_id": label,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": int(mask.sum()),
            "segmentation": encode_rle(mask),
            "iscrowd": 0,
        }
        for (x0, y0, x1, y1), label, mask in zip(shown.boxes.tolist(), shown.labels.tolist(), shown.masks, strict=True)
    ]
    return {"id": shown.image_id, "file_name": _file_name(shown, suffix), "height": height, "width": width}, objects


def _instances(described: Iterable[_Described]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for image, shown in described:
        images.append(image)
        objects += [{"id": number, **each} for number, each in enumerate(shown, start=len(objects) + 1)]
    return {
        "info": {"description": "graphsurgery shapes"},
        "images": images,
        "annotations": objects,
        "categories": [{"id": key, "name": name} for key, name in CATEGORIES.items()],
    }


def write_dataset(folder: Path, images: int, seed: int, suffix: str = ".png") -> Path:
    """Write `images/000001.png` and on, then `instances.json`, into `folder`; return the path of the latter.

    With `.bmp` as `suffix` they are as large and take half the time: of a PNG each row is tried in five ways. Every
    file appears under its name only when it is complete, and instances.json comes last. Images are drawn side by side,
    by a thread for each core: NumPy and Pillow let each other run. Raises OSError.
    """
    place = folder / "images"
    place.mkdir(parents=True, exist_ok=True)
    target = folder / "instances.json"
    with reserved(place) as work, written_whole(target) as annotations:
        work.mkdir()

        def saved(index: int) -> _Described:
            shown = draw(seed, index)
            made = work / _file_name(shown, suffix)
            Image.fromarray(shown.image).save(made, compress_level=_PNG_LEVEL)
            made.replace(place / made.name)
            return _described(shown, suffix)

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            described = _instances(threads.map(saved, range(images)))
        annotations.write_text(json.dumps(described), encoding="utf-8")
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a training and a validation set from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m graphsurgery.demo.shapes",
        description="Write the shapes data set in COCO format, as FOLDER/train and FOLDER/val.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--train", type=int, default=1000, help="training images (default: %(default)s)")
    parser.add_argument("--val", type=int, default=100, help="validation images (default: %(default)s)")
    options = parser.parse_args(arguments)
    write_dataset(options.folder / "train", options.train, TRAIN_SEED)
    write_dataset(options.folder / "val", options.val, VAL_SEED)


def _file_name(shown: ShapeImage, suffix: str) -> str:
    return f"{shown.image_id:06d}{suffix}"


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random())


def _background(rng: np.random.Generator, height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a gradient (H, W, 3) in a random direction, and the two colours it runs between, (2, 3)."""
    first = rng.integers(0, 256, size=3).astype(np.float64)
    second = np.clip(first + rng.integers(-70, 71, size=3), 0, 255)
    across = float(rng.random())
    x = np.arange(width) / (width - 1)
    y = np.arange(height) / (height - 1)
    if rng.random() < 0.5:
        x = 1.0 - x
    ramp = across * x[None, :] + (1.0 - across) * y[:, None]
    return first + (second - first) * ramp[:, :, None], np.stack([first, second])


def _contrasting_colour(rng: np.random.Generator, palette: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw a colour that differs from every colour of `palette` by _MIN_CONTRAST in some channel."""
    while True:
        colour = rng.integers(0, 256, size=3).astype(np.float64)
        if np.abs(palette - colour).max(axis=1).min() >= _MIN_CONTRAST:
            return colour


def _shape(rng: np.random.Generator, height: int, width: int) -> tuple[int, Mask]:
    """Draw a category and the pixels of one shape, which may stick out of the image by some of its radius."""
    label = int(rng.integers(1, len(CATEGORIES) + 1))
    radius = _uniform(rng, *_RADII)
    centre_x = _uniform(rng, 0.7 * radius, width - 0.7 * radius)
    centre_y = _uniform(rng, 0.7 * radius, height - 0.7 * radius)
    # The rational parametrisation of the circle: the last bit of sin and cos would be the platform's.
    t = _uniform(rng, -1.0, 1.0)
    cos, sin = (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)
    x = np.arange(width)[None, :] + 0.5 - centre_x
    y = np.arange(height)[:, None] + 0.5 - centre_y
    if CATEGORIES[label] == "circle":
        return label, x * x + y * y <= radius * radius

    mask = np.ones((height, width), dtype=np.bool_)
    corners = [(radius * (cos * cx - sin * cy), radius * (sin * cx + cos * cy)) for cx, cy in _CORNERS[label].tolist()]
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        mask &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0
    return label, mask


def _extent(mask: Mask) -> tuple[int, int, int, int]:
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


if __name__ == "__main__":
    main()
