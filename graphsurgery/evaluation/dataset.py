"""The images that AP is measured on: those that COCO annotations name, looked at before the work begins."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphsurgery import files as doors
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.errors import InputError
from graphsurgery.files.temporary import temporary_folder
from graphsurgery.images.annotations import read_annotations
from graphsurgery.images.files import MOST_BYTES, ImageFile, named_images, opened, why_unread

# what torchvision's lists of classes have where COCO numbers no category
_NO_CLASS = ("n/a", "background", "__background__")


@dataclass(frozen=True)
class Picture:
    """An image by its COCO id; `sha256` is that of the file."""

    id: int
    path: Path
    sha256: str


@dataclass(frozen=True)
class Unreadable:
    """An image that the annotations name and nobody can read, and why."""

    id: int
    path: Path
    reason: str

    def to_json(self) -> dict[str, object]:
        """Return it as summary.json lists what was skipped."""
        return {"image": self.id, "file": str(self.path), "reason": self.reason}


@dataclass(frozen=True)
class Dataset:
    """Annotations, and the first of their images by ascending id. `place` is what messages call the annotations."""

    place: str
    annotations: Mapping[str, Any]
    pictures: tuple[Picture, ...]
    unreadable: tuple[Unreadable, ...] = ()


def open_dataset(images: Path, annotations: Path, samples: int | None = None, *, skip_bad: bool = False) -> Dataset:
    """Read annotations and look at the first `samples` images that they name, all of them if None.

    An image that is damaged is set apart in `unreadable`; with `skip_bad` one that isn't there, too. Raises InputError
    for annotations that are broken, or that are of other images than those in the folder.
    """
    if not images.is_dir():
        raise InputError(f"{images}: no such folder of images; give the one with the images that {annotations} names")
    content = read_annotations(annotations)
    named = [(entry["id"], entry.get("file_name", "")) for entry in content["images"]]
    files = named_images(images, named, annotations)[:samples]
    twice = [identity for identity, count in Counter(file.id for file in files).items() if count > 1]
    if twice:
        raise InputError(f"{annotations}: two images have the id {twice[0]}; give each its own")
    absent = [file for file in files if not _is_file(file.path)]
    if len(absent) == len(files) or (absent and not skip_bad):
        otherwise = "" if len(absent) == len(files) else ", or leave them out with --skip-bad"
        raise InputError(
            f"{annotations}: {len(absent)} of {len(files)} images are not in {images}, {absent[0].path.name} for one; "
            f"give the folder that they are in{otherwise}"
        )
    sizes = {entry["id"]: (entry.get("height"), entry.get("width")) for entry in content["images"]}
    looked = [_look(file, sizes[int(file.id)], annotations) for file in files]
    pictures = tuple(each for each in looked if isinstance(each, Picture))
    return Dataset(str(annotations), content, pictures, tuple(each for each in looked if isinstance(each, Unreadable)))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for any
        return False


def _look(file: ImageFile, annotated: tuple[int | None, int | None], annotations: Path) -> Picture | Unreadable:
    identity = int(file.id)
    try:
        content = doors.read_bytes(file.path, MOST_BYTES)
        with opened(content) as image:
            width, height = image.size
    except FileNotFoundError:
        return Unreadable(identity, file.path, "no such file")
    except Exception as error:  # as in load_image
        return Unreadable(identity, file.path, why_unread(error))
    if None not in annotated and (height, width) != annotated:
        raise InputError(
            f"{annotations}: image {identity} is {annotated[0]} x {annotated[1]} there, but {height} x {width} in "
            f"{file.path}; give the annotations of these images, or these annotations' images"
        )
    return Picture(identity, file.path, hashlib.sha256(content).hexdigest())


def category_of_label(
    annotations: Mapping[str, Any],
    classes: Sequence[str] | None,
    place: str,
    detections: Postprocessing | None = None,
) -> dict[int, int] | None:
    """Return the category id that each label of the model stands for; None where nobody says what labels are called.

    It is what the section `detections` of a recipe says. Else a label is its category's id, as in torchvision's
    detectors; where names say otherwise, the category of the same name. Raises InputError for a category that the model
    doesn't know.
    """
    given = None if detections is None else detections.category_of_label
    if given is not None:
        return _given(annotations, given, place)
    if classes is None:
        return None
    nameless = [each["id"] for each in annotations["categories"] if not isinstance(each.get("name"), str)]
    if detections is not None and nameless:
        raise InputError(
            f"{place}: category {nameless[0]} has no name, so that detections.classes doesn't tell its label; write "
            "detections.categories"
        )
    labels = {name.casefold(): label for label, name in enumerate(classes) if name.casefold() not in _NO_CLASS}
    known = set(labels.values())
    categories: dict[int, str | None] = {each["id"]: each.get("name") for each in annotations["categories"]}
    named = {key: name.casefold() for key, name in categories.items() if isinstance(name, str)}
    if all(key in known and (key not in named or classes[key].casefold() == named[key]) for key in categories):
        return {key: key for key in categories}
    unknown = [key for key in categories if key not in named or named[key] not in labels]
    if unknown:
        names = [name for name in classes if name.casefold() in labels]
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise InputError(
            f"{place}: the model doesn't know category {unknown[0]} '{categories[unknown[0]]}' and "
            f"{len(unknown) - 1} others of {len(categories)}; its classes are {shown}. Give annotations with these"
        )
    return {labels[name]: key for key, name in named.items()}


def _given(annotations: Mapping[str, Any], given: Mapping[int, int], place: str) -> dict[int, int]:
    ids = [each["id"] for each in annotations["categories"]]
    lacking = [each for each in ids if each not in given.values()]
    if lacking:
        raise InputError(
            f"{place}: detections.categories has no label for category {lacking[0]} and {len(lacking) - 1} others of "
            f"{len(ids)}; add them, or give annotations without"
        )
    return {label: category for label, category in given.items() if category in ids}


def require_categories(annotations: Mapping[str, Any], labels: Collection[int], place: str, *, all_: bool) -> None:
    """Raise InputError where labels, which nobody has named, are no category ids.

    `labels` are those that a network has (`all_`), and are the ids, or some of them, and are among the ids.
    """
    ids = {each["id"] for each in annotations["categories"]}
    if set(labels) - ids or (all_ and ids - set(labels)):
        raise InputError(
            f"{place}: has the category ids {_some(ids)}, the network the labels {_some(labels)}; say what they are "
            "called in detections.classes, or which ids they are in detections.categories"
        )


def _some(numbers: Collection[int]) -> str:
    first = sorted(numbers)
    return ", ".join(map(str, first[:4])) + (f", ... {first[-1]}" if len(first) > 4 else "")


def draw_shapes(folder: Path, count: int) -> tuple[Path, Path]:
    """Draw the demo's validation images into `folder`; return the folder of images and the annotations."""
    from graphsurgery.demo import shapes

    try:
        annotations = shapes.write_dataset(folder, count, shapes.VAL_SEED, ".bmp")
    except OSError as error:
        raise InputError(f"{folder}: images can't be drawn there ({error.strerror or error})") from error
    return annotations.parent / "images", annotations


@contextmanager
def drawn_or_given(images: Path | None, annotations: Path | None, count: int) -> Iterator[tuple[Path, Path]]:
    """Yield the folder of images and their annotations; the demo's are drawn for the occasion."""
    if images is not None and annotations is not None:
        yield images, annotations
        return
    with temporary_folder() as folder:
        yield draw_shapes(folder, count)
