"""Finds and reads images: a file, a folder, or what a COCO annotations file names.

Pillow tells the format by what is in a file, and for some runs a program of that name in PATH: Ghostscript for
PostScript. So it may try those formats only that it reads by itself.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from graphsurgery import files
from graphsurgery.errors import InputError, first_line
from graphsurgery.images.annotations import read_listed

MOST_BYTES = 512 * files.MB
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")


@dataclass(frozen=True)
class ImageFile:
    """An image that is not read yet. `id` is COCO's image id, or the file's name without suffix."""

    id: str
    path: Path


def read_images(path: Path, annotations: Path | None = None, max_samples: int | None = None) -> list[ImageFile]:
    """List the images of a folder, or the one that `path` is.

    With a COCO file of annotations those it names, by ascending id; otherwise by file name. At most `max_samples`.
    Raises InputError where there is none, for annotations that can't be read, and for a limit below 1.
    """
    if max_samples is not None and max_samples < 1:
        raise InputError(f"{path}: {max_samples} images were asked for; ask for at least 1")
    if path.is_file():
        return [ImageFile(path.stem, path)]
    if not path.is_dir():
        raise InputError(f"{path}: no such image or folder of images")
    if annotations is not None:
        return named_images(path, read_listed(annotations), annotations)[:max_samples]
    there = [entry for entry in path.iterdir() if entry.suffix.lower() in _SUFFIXES and entry.is_file()]
    if not there:
        raise InputError(f"{path}: no image in this folder ({', '.join(_SUFFIXES)})")
    return [ImageFile(entry.stem, entry) for entry in sorted(there, key=lambda entry: entry.name)[:max_samples]]


def load_image(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image as uint8 RGB [h, w, 3], as it lies in the file: EXIF orientation is not applied, as in COCO.

    Raises InputError for what is no image, is damaged, or claims so many pixels that Pillow takes it for an attack.
    """
    try:
        with opened(files.read_bytes(path, MOST_BYTES)) as image:
            # of one that is RGB already, convert would make a copy, of 4 bytes for each pixel
            return np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)
    except Exception as error:  # Pillow's decoders raise any of a dozen classes for a damaged file
        raise InputError(f"{path}: can't be read as an image ({why_unread(error)}); give another") from error


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """Yield the image in the bytes of a file, of which only the head was read. Raises whatever Pillow does."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            yield image


def why_unread(error: Exception) -> str:
    """Return why an image can't be read, in one line."""
    if isinstance(error, UnidentifiedImageError):  # its message names an address in memory
        return f"not an image, or none of {', '.join(_FORMATS)}"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"too many pixels: {first_line(error)}"
    return files.reason(error)


def named_images(folder: Path, entries: Iterable[tuple[int, str]], annotations: Path) -> list[ImageFile]:
    """List the images that COCO `annotations` name, by ascending id; `entries` are their ids and files.

    Raises InputError for one that lies outside of `folder`.
    """
    found = []
    for number, name in sorted(entries):
        try:
            inside = (folder / name).resolve().is_relative_to(folder.resolve())
        except (OSError, ValueError) as error:  # names that no file can have
            raise InputError(f"{annotations}: image {number} has no name of a file: {files.reason(error)}") from error
        if not inside:
            raise InputError(f"{annotations}: image {number} lies outside {folder} ('{name}')")
        found.append(ImageFile(str(number), folder / name))
    return found
