"""model_io: what a source computes on sample images, one folder per image and one .npy file per tensor.

    <folder>/capture.json             what the tensors are of; written last, so a folder without it is no capture
    <folder>/<image id>/<tensor>.npy  characters that a file name can't have are written as in a URL: %2F

Reading needs neither torch nor onnxruntime, and never unpickles.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from graphsurgery.demo.shapes import embedded_images
from graphsurgery.errors import CaptureError, InputError
from graphsurgery.images.canvas import Canvas
from graphsurgery.images.files import ImageFile, load_image, read_images
from graphsurgery.sources import Source, Tensors

__all__ = [
    "Capture",
    "ImageFile",
    "InputImage",
    "Sample",
    "capture",
    "check_id",
    "embedded_samples",
    "exists",
    "load_image",
    "read_images",
    "reference_detections",
]

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]

_FORMAT = 1
_INDEX = "capture.json"
_UNSAFE = re.compile(r'[<>:"/\\|?*%\x00-\x1f\x7f]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST_NAME = 200


class InputImage(NamedTuple):
    """An image to capture: its id, its pixels uint8 [h, w, 3], and the file that it came from, if any."""

    id: str
    pixels: Array
    file: str | None = None


@dataclass(frozen=True)
class Sample:
    """The tensors of one image. `height` and `width` are the image's own size, `file` says where it came from.

    `computed` are tensors that the original has no name for; a graph that had passed gave them, and no file holds them.
    """

    id: str
    folder: Path
    file: str | None
    height: int
    width: int
    computed: dict[str, Array] = field(default_factory=dict, compare=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the captured tensors, in alphabetical order."""
        return tuple(sorted(unquote(path.stem) for path in self.folder.glob("*.npy")))

    def __contains__(self, name: str) -> bool:
        return name in self.computed or self._path(name).is_file()

    def remember(self, tensors: Mapping[str, Array]) -> None:
        """Keep tensors of this run as `computed`, but for those that were captured."""
        self.computed.update({name: value for name, value in tensors.items() if name not in self})

    def load(self, name: str) -> Array:
        """Read one tensor. Raises CaptureError if it is missing, damaged, or would have to be unpickled."""
        if name in self.computed:
            return self.computed[name]
        path = self._path(name)
        try:
            array = np.load(path, allow_pickle=False)
        except FileNotFoundError as error:
            has = ", ".join(self.names) or "no tensor"
            raise CaptureError(f"{path}: no such tensor; sample {self.id} has {has}; capture again") from error
        except (ValueError, EOFError, OSError, MemoryError) as error:
            reason = str(error).partition("\n")[0]
            raise CaptureError(f"{path}: can't be read as a plain array ({reason}); capture again") from error
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise CaptureError(f"{path}: not a plain array; capture again")
        return array

    def _path(self, name: str) -> Path:
        return self.folder / f"{_file_stem(name)}.npy"


@dataclass(frozen=True)
class Capture:
    """A finished model_io folder. `source` is what Source.describe() said, `canvas` the size the tensors are on."""

    folder: Path
    source: Mapping[str, object]
    canvas: Canvas
    samples: tuple[Sample, ...]

    @classmethod
    def open(cls, folder: Path) -> Capture:
        """Read capture.json; tensors are read when asked for. Raises CaptureError for anything but a capture."""
        index = folder / _INDEX
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CaptureError(f"{index}: no such file; no capture was finished here, run capture") from error
        except (OSError, ValueError) as error:  # JSON and UTF-8 errors are ValueErrors
            raise CaptureError(f"{index}: can't be read ({error}); capture again") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            seen = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise CaptureError(f"{index}: format {seen!r}, should be {_FORMAT}; capture again with this version")
        source, entries = content.get("source"), content.get("samples")
        if not isinstance(source, dict) or not isinstance(entries, list):
            raise CaptureError(f"{index}: source or samples is missing; capture again")
        try:
            canvas = Canvas.from_json(content.get("canvas"))
        except InputError as error:
            raise CaptureError(f"{index}: {error}; capture again") from error
        samples = tuple(_sample(entry, folder, index) for entry in entries)
        taken: set[str] = set()
        for sample in samples:
            _refuse_twin(sample.id, taken, str(index))
        return cls(folder, source, canvas, samples)

    def require_source(self, source: Mapping[str, object]) -> None:
        """Raise CaptureError unless the tensors are of the model that `source`, a describe(), says."""
        wanted = json.loads(json.dumps(source))
        if wanted == self.source:
            return
        key = next(key for key in {**wanted, **self.source} if wanted.get(key) != self.source.get(key))
        raise CaptureError(
            f"{self.folder}: captured of another model ({key} {self.source.get(key)!r}, not {wanted.get(key)!r}); "
            f"capture again into another folder, or overwrite this one"
        )


def exists(folder: Path) -> bool:
    """Tell whether a capture was finished in `folder`."""
    return (folder / _INDEX).is_file()


def capture(
    source: Source,
    images: Iterable[InputImage | tuple[str, Array]],
    folder: Path,
    progress: Progress | None = None,
    *,
    total: int | None = None,
    overwrite: bool = False,
) -> Capture:
    """Trace every image on the canvas of `source` into `folder`, and return what is then there.

    `images` are taken one at a time. They replace those of an earlier capture of the same model; one of another model
    is only replaced if `overwrite` is set. `progress` is called with the number done and `total`, 0 if it isn't known.
    What was in the folder stays whole until all are traced. Raises CaptureError for an id that can't be a folder's
    name or comes twice, another model's folder, or a folder that can't be written.
    """
    if total is None:
        total = len(images) if isinstance(images, Sized) else 0
    description = json.loads(json.dumps(source.describe()))
    earlier = _earlier(folder)
    if earlier is not None and not overwrite:
        earlier.require_source(description)
    samples: list[Sample] = []
    taken: set[str] = set()
    staging = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    try:
        staging.mkdir(parents=True)
        for image in images:
            name, pixels, file = InputImage(*image)
            check_id(name)
            _refuse_twin(name, taken, str(folder))
            placed = source.canvas.fit(pixels)
            _write_sample(staging / name, source.trace(placed.input))
            samples.append(Sample(name, folder / name, file, *placed.original))
            if progress is not None:
                progress(len(samples), total)
        if not samples:
            raise CaptureError(f"{folder}: there is no image to capture; name some")
        _publish(staging, folder, samples, earlier)
        _write_index(folder / _INDEX, description, source.canvas, samples)
    except OSError as error:
        raise CaptureError(f"{folder}: can't be written ({error}); make room, or name another folder") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Capture(folder, description, source.canvas, tuple(samples))


def _publish(staging: Path, folder: Path, samples: Sequence[Sample], earlier: Capture | None) -> None:
    """Put finished samples in the place of those of an earlier capture; other files in the folder stay.

    Until the index is written again, the folder is no capture: nobody takes a mixture for one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _INDEX).unlink(missing_ok=True)
    for stale in earlier.samples if earlier is not None else ():
        shutil.rmtree(stale.folder, ignore_errors=True)
    for sample in samples:
        if sample.folder.exists():
            shutil.rmtree(sample.folder)
        (staging / sample.id).rename(sample.folder)


def reference_detections(source: Source, image: Array) -> Tensors:
    """Return what the original model finds in an image uint8 [h, w, 3], in the image's own pixels.

    boxes [M, 4], labels, scores, and masks [M, 1, h, w] as probabilities or keypoints [M, K, 3].
    """
    placed = source.canvas.fit(image)
    return placed.restore(source.detect(placed.input))


def embedded_samples(count: int) -> Iterator[InputImage]:
    """Yield the images that a capture takes unless others are named: `demo.shapes.embedded_images`."""
    for shown in embedded_images(count):
        yield InputImage(str(shown.image_id), shown.image)


def check_id(name: str) -> None:
    """Raise CaptureError for an image id that isn't a folder's name on every system."""
    if (
        not name
        or len(name) > _LONGEST_NAME
        or _UNSAFE.search(name)
        or _DEVICES.fullmatch(name)
        or name[0] == "."
        or name[-1] in ". "
        or name.casefold() == _INDEX
    ):
        raise CaptureError(f"image id {name!r} can't be a folder's name; rename the image")


def _refuse_twin(name: str, taken: set[str], place: str) -> None:
    """Raise CaptureError for an id that another image has, on a file system that ignores case."""
    if name.casefold() in taken:
        raise CaptureError(f"{place}: two images have the id {name!r}, or differ in case only; rename one")
    taken.add(name.casefold())


def _earlier(folder: Path) -> Capture | None:
    return Capture.open(folder) if exists(folder) else None


def _sample(entry: object, folder: Path, index: Path) -> Sample:
    fields = entry if isinstance(entry, dict) else {}
    name, file, height, width = (fields.get(key) for key in ("id", "file", "height", "width"))
    if not isinstance(name, str) or not isinstance(height, int) or not isinstance(width, int):
        raise CaptureError(f"{index}: a sample lacks id, height or width ({entry!r}); capture again")
    check_id(name)
    return Sample(name, folder / name, file if isinstance(file, str) else None, height, width)


def _write_sample(folder: Path, tensors: Tensors) -> None:
    folder.mkdir()
    for name, tensor in tensors.items():
        path = folder / f"{_file_stem(name)}.npy"
        with path.open("xb") as file:  # x: two names that differ in case only must not share a file
            np.save(file, tensor, allow_pickle=False)


def _write_index(index: Path, source: Mapping[str, object], canvas: Canvas, samples: list[Sample]) -> None:
    content = {
        "format": _FORMAT,
        "source": source,
        "canvas": canvas.to_json(),
        "samples": [{"id": s.id, "file": s.file, "height": s.height, "width": s.width} for s in samples],
    }
    temporary = index.with_name(f"{index.name}.tmp-{os.getpid()}")
    try:
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")
        temporary.replace(index)
    finally:
        temporary.unlink(missing_ok=True)


def _file_stem(name: str) -> str:
    stem = quote(name, safe=" ")
    if _DEVICES.fullmatch(stem) or stem[:1] == ".":
        stem = f"%{ord(stem[0]):02X}{stem[1:]}"
    if not stem or len(stem) > _LONGEST_NAME:
        raise CaptureError(f"tensor {name!r} can't be a file's name; leave it out of the boundary")
    return stem
