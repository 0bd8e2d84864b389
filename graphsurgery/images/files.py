"""Finds and reads images: a file, a folder, or what a COCO annotations file names."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from graphsurgery.errors import InputError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


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
        return _annotated(path, annotations)[:max_samples]
    files = [entry for entry in path.iterdir() if entry.suffix.lower() in _SUFFIXES and entry.is_file()]
    if not files:
        raise InputError(f"{path}: no image in this folder ({', '.join(_SUFFIXES)})")
    return [ImageFile(entry.stem, entry) for entry in sorted(files, key=lambda entry: entry.name)[:max_samples]]


def load_image(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image as uint8 RGB [h, w, 3], as it lies in the file: EXIF orientation is not applied, as in COCO.

    Raises InputError for what is no image, is damaged, or claims so many pixels that Pillow takes it for an attack.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return np.array(image.convert("RGB"), dtype=np.uint8)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: too many pixels ({error}); scale the image down") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # Pillow's decoders raise any of these
        raise InputError(f"{path}: can't be read as an image ({error}); remove it or give another") from error


def _annotated(folder: Path, annotations: Path) -> list[ImageFile]:
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
        entries = [(int(entry["id"]), str(entry["file_name"])) for entry in content["images"]]
    except OSError as error:
        raise InputError(f"{annotations}: can't be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{annotations}: no COCO annotations ({type(error).__name__}: {error}); each image needs id and file_name"
        ) from error
    if not entries:
        raise InputError(f"{annotations}: names no image")
    files = []
    for number, name in sorted(entries):
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{annotations}: image {number} lies outside {folder} ('{name}')")
        files.append(ImageFile(str(number), folder / name))
    return files
