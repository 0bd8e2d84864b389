"""COCO annotation files, and what must hold in one before pycocotools, which checks nothing, gets to see it.

pycocotools is written in C: a run length that ends nowhere makes it read on behind the text, and one polygon can make
it ask for all the memory there is.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypeVar

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic brings it, and takes no other before Python 3.12

from graphsurgery import files
from graphsurgery.errors import InputError
from graphsurgery.images.run_lengths import decode_counts

MOST_BYTES = 1024 * files.MB
_MOST_CATEGORIES = 5_000  # pycocotools takes 200 kB for each
_LONGEST_OUTLINE = 2_000_000  # pixels around the polygons of one object; pycocotools takes 200 bytes for each

Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Side = Annotated[int, Field(ge=1, le=2**27)]  # of an image, in pixels
Count = Annotated[int, Field(ge=0, lt=2**32)]
FileName = Annotated[str, Field(min_length=1, max_length=1_000)]

_Content = TypeVar("_Content")


class RunLengths(TypedDict):
    """A mask: lengths of runs, column by column, zeros first, as a list or as compressed text. `size` is [h, w]."""

    size: Annotated[list[Side], Field(min_length=2, max_length=2)]
    counts: str | list[Count]


class CocoImage(TypedDict):
    """An image; without a size only boxes can be compared in it."""

    id: Id
    file_name: NotRequired[FileName]
    height: NotRequired[Side | None]
    width: NotRequired[Side | None]


class CocoObject(TypedDict):
    """An object in an image; `bbox` is x, y, width, height in pixels."""

    image_id: Id
    category_id: Id
    bbox: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)]
    area: NotRequired[FiniteFloat]
    iscrowd: NotRequired[Annotated[int, Field(ge=0, le=1)] | bool]
    segmentation: NotRequired[list[list[FiniteFloat]] | RunLengths | None]
    keypoints: NotRequired[list[FiniteFloat]]
    num_keypoints: NotRequired[Count]


class CocoCategory(TypedDict):
    """A category that objects are of."""

    id: Id
    name: NotRequired[Annotated[str, Field(max_length=200)]]


class Coco(TypedDict):
    """A COCO file, as far as it is used; everything else in it is left out."""

    images: list[CocoImage]
    annotations: list[CocoObject]
    categories: list[CocoCategory]


class _Listed(TypedDict):
    id: Id
    file_name: FileName


_IMAGE, _LISTED = TypeAdapter(CocoImage), TypeAdapter(_Listed)
_OBJECT, _CATEGORY = TypeAdapter(CocoObject), TypeAdapter(CocoCategory)


def read_annotations(path: Path) -> Coco:
    """Read a COCO annotation file: images, annotations and categories that know each other.

    Raises InputError when it is missing, isn't JSON, or holds what COCO doesn't.
    """
    content = _read(path)
    images = _checked(path, content, "images", _IMAGE)
    categories = _checked(path, content, "categories", _CATEGORY)
    if len(categories) > _MOST_CATEGORIES:
        raise InputError(f"{path}: {len(categories)} categories; AP is computed of {_MOST_CATEGORIES} at most")
    objects = _checked(path, content, "annotations", _OBJECT)
    listed = {image["id"] for image in images}, {category["id"] for category in categories}
    for number, entry in enumerate(objects):
        seen = ("image_id", entry["image_id"]), ("category_id", entry["category_id"])
        for (key, identity), known in zip(seen, listed, strict=True):
            if identity not in known:
                raise InputError(f"{path}: annotations[{number}] has {key} {identity}, which is not listed")
    return Coco(images=images, annotations=objects, categories=categories)


def read_listed(path: Path) -> list[tuple[int, str]]:
    """Read the id and the file name of each image in a COCO file. Raises InputError where there are none."""
    return [(entry["id"], entry["file_name"]) for entry in _checked(path, _read(path), "images", _LISTED)]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = files.read_json(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read as JSON ({files.reason(error)}); give a COCO file") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not an object; give a COCO annotation file")
    return content


def _checked(path: Path, content: dict[str, Any], name: str, kind: TypeAdapter[_Content]) -> list[_Content]:
    """Return the entries of a list, each checked and in the place of what was read: memory holds them once."""
    entries = content.get(name)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: no {name}; give a COCO annotation file that has them")
    for number, entry in enumerate(entries):
        try:
            entries[number] = kind.validate_python(entry, strict=True)
        except ValidationError as error:
            raise InputError(f"{path}: {files.first_fault(error, name, number)}") from error
    return entries


def refuse_mask(segmentation: Any, size: tuple[int, int]) -> None:
    """Raise ValueError for a mask, as a CocoObject has it, that isn't one in a picture of `size` (height, width).

    Its runs must end where the picture does: pycocotools compares two masks for ever of which one is shorter. Its
    polygons must not be longer than any that people draw.
    """
    if size[0] * size[1] >= 2**31:
        raise ValueError(f"a picture of {size[0]} x {size[1]} is too large")
    if isinstance(segmentation, list):
        _refuse_polygons(segmentation, max(size))
        return
    if list(segmentation["size"]) != list(size):
        raise ValueError(
            f"a mask of {' x '.join(map(str, segmentation['size']))} in a picture of {size[0]} x {size[1]}"
        )
    counts = segmentation["counts"]
    covered = sum(counts) if isinstance(counts, list) else int(decode_counts(counts).sum())
    if covered != size[0] * size[1]:
        raise ValueError(f"its run lengths cover {covered} pixels of {size[0]} x {size[1]}")


def _refuse_polygons(polygons: list[list[float]], side: int) -> None:
    if not polygons:
        raise ValueError("it has no polygon")
    outline = 0.0
    for polygon in polygons:
        # pycocotools takes all of them for boxes where the first one has four numbers, and fails at it
        if len(polygon) % 2 or len(polygon) < 6:
            raise ValueError(f"a polygon has {len(polygon)} numbers; it takes x, y of three points or more")
        low, high = min(polygon), max(polygon)
        if low < -side or high > 2 * side:
            raise ValueError(f"a polygon reaches from {low:g} to {high:g}, far out of a picture of {side} pixels")
        outline += len(polygon) / 2 * (high - low)
    if outline > _LONGEST_OUTLINE and sum(map(_around, polygons)) > _LONGEST_OUTLINE:
        raise ValueError(f"its polygons are longer than {_LONGEST_OUTLINE} pixels")


def _around(polygon: list[float]) -> float:
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    return sum(math.dist(one, other) for one, other in pairwise([*points, points[0]]))
