"""model_io: what a source computes on sample images, one folder per image and one .npy file per tensor.

    <folder>/capture.json             what the tensors are of; written last, so a folder without it is no capture
    <folder>/<image id>/<tensor>.npy  characters that a file name can't have are written as in a URL: %2F

Reading needs neither torch nor onnxruntime, and never unpickles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from graphsurgery.errors import CaptureError, InputError
from graphsurgery.images.canvas import Canvas

Array = npt.NDArray[Any]

FORMAT = 1
INDEX = "capture.json"
_UNSAFE = re.compile(r'[<>:"/\\|?*%\x00-\x1f\x7f]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST_NAME = 200


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
        return self.computed[name] if name in self.computed else self._read(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor, of which no more than the head of its file is read. Raises as `load`."""
        return np.shape(self.computed[name]) if name in self.computed else self._read(name, head_only=True).shape

    def _read(self, name: str, *, head_only: bool = False) -> Array:
        path = self._path(name)
        try:
            array = np.load(path, mmap_mode="r" if head_only else None, allow_pickle=False)
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
        return self.folder / f"{file_stem(name)}.npy"


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
        index = folder / INDEX
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CaptureError(f"{index}: no such file; no capture was finished here, run capture") from error
        except (OSError, ValueError) as error:  # JSON and UTF-8 errors are ValueErrors
            raise CaptureError(f"{index}: can't be read ({error}); capture again") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            seen = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise CaptureError(f"{index}: format {seen!r}, should be {FORMAT}; capture again with this version")
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
            refuse_twin(sample.id, taken, str(index))
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
    return (folder / INDEX).is_file()


def check_id(name: str) -> None:
    """Raise CaptureError for an image id that isn't a folder's name on every system."""
    if (
        not name
        or len(name) > _LONGEST_NAME
        or _UNSAFE.search(name)
        or _DEVICES.fullmatch(name)
        or name[0] == "."
        or name[-1] in ". "
        or name.casefold() == INDEX
    ):
        raise CaptureError(f"image id {name!r} can't be a folder's name; rename the image")


def refuse_twin(name: str, taken: set[str], place: str) -> None:
    """Raise CaptureError for an id that another image has, on a file system that ignores case."""
    if name.casefold() in taken:
        raise CaptureError(f"{place}: two images have the id {name!r}, or differ in case only; rename one")
    taken.add(name.casefold())


def _sample(entry: object, folder: Path, index: Path) -> Sample:
    fields = entry if isinstance(entry, dict) else {}
    name, file, height, width = (fields.get(key) for key in ("id", "file", "height", "width"))
    if not isinstance(name, str) or not isinstance(height, int) or not isinstance(width, int):
        raise CaptureError(f"{index}: a sample lacks id, height or width ({entry!r}); capture again")
    check_id(name)
    return Sample(name, folder / name, file if isinstance(file, str) else None, height, width)


def file_stem(name: str) -> str:
    stem = quote(name, safe=" ")
    if _DEVICES.fullmatch(stem) or stem[:1] == ".":
        stem = f"%{ord(stem[0]):02X}{stem[1:]}"
    if not stem or len(stem) > _LONGEST_NAME:
        raise CaptureError(f"tensor {name!r} can't be a file's name; leave it out of the boundary")
    return stem
