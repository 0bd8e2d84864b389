"""model_io: what a source computes on sample images, one folder per image and one .npy file per tensor.

    <folder>/capture.json             what the tensors are of, and what was asked for; written last, so a folder without
                                      it is no capture
    <folder>/<image id>/<tensor>.npy  characters that a file name can't have are written as in a URL: %2F

Reading needs neither torch nor onnxruntime, and never unpickles.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic brings it, and takes no other before Python 3.12

from graphsurgery import files
from graphsurgery.errors import CaptureError, InputError
from graphsurgery.files.commit import edition, read_whole, recover
from graphsurgery.images.annotations import Side
from graphsurgery.images.canvas import Canvas

Array = npt.NDArray[Any]

FORMAT = 1
INDEX = "capture.json"
_MOST_BYTES, _LARGEST_TENSOR = 64 * files.MB, 2048 * files.MB


class InputImage(NamedTuple):
    """An image to capture: its id, its pixels uint8 [h, w, 3], and the file that it came from, if any."""

    id: str
    pixels: Array
    file: str | None = None


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Request:
    """What somebody asked to capture: the first `samples` images of a folder, and the `boundary` of the parts.

    `images` and `annotations` are absolute paths; without a folder the images are the embedded ones. `by_hand` tells
    which of `images` and `samples` the command `capture` was given beside its recipe: later runs go by them.
    """

    images: str | None
    annotations: str | None
    samples: Annotated[int, Field(ge=0)]
    boundary: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()

    def covers(self, other: Request) -> bool:
        """Whether as many images of the same folder were asked for as `other` asks for, or more."""
        same = (self.images, self.annotations) == (other.images, other.annotations)
        return same and self.samples >= other.samples


class _Entry(TypedDict):
    id: str
    file: NotRequired[str | None]
    height: Side
    width: Side
    digest: NotRequired[str | None]


class _Index(TypedDict):
    format: Literal[1]
    source: dict[str, Any]
    canvas: object
    samples: Annotated[list[_Entry], Field(min_length=1)]
    request: NotRequired[Request | None]


_INDEX = TypeAdapter(_Index)


@dataclass(frozen=True)
class Sample:
    """The tensors of one image. `height` and `width` are the image's own size, `file` says where it came from.

    `digest` is that of its pixels, `edition` tells the capture that it belongs to from a later one. `computed` are
    tensors that the original has no name for; a graph that had passed gave them, and no file holds them.
    """

    id: str
    folder: Path
    file: str | None
    height: int
    width: int
    digest: str | None = None
    edition: object = field(default=None, compare=False, repr=False)
    computed: dict[str, Array] = field(default_factory=dict, compare=False, repr=False)
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict, init=False, compare=False, repr=False)

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
        """Read one tensor. Raises CaptureError if it is missing, damaged, of another capture, or to be unpickled."""
        return self.computed[name] if name in self.computed else self._read(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor, of which no more than the head of its file is read. Raises as `load`."""
        if name not in self._shapes:
            known = name in self.computed
            self._shapes[name] = np.shape(self.computed[name]) if known else self._read(name, head_only=True).shape
        return self._shapes[name]

    def _read(self, name: str, *, head_only: bool = False) -> Array:
        path = self._path(name)
        try:
            return self._plain(path, head_only)
        finally:
            if self.edition is not None and edition(self.folder.parent, INDEX) != self.edition:
                raise CaptureError(f"{self.folder.parent}: was captured anew while this command read it; run it again")

    def _plain(self, path: Path, head_only: bool) -> Array:
        try:
            files.require_regular(path, _LARGEST_TENSOR)
            array = np.load(path, mmap_mode="r" if head_only else None, allow_pickle=False)
        except FileNotFoundError as error:
            has = ", ".join(self.names) or "no tensor"
            raise CaptureError(f"{path}: no such tensor; sample {self.id} has {has}; capture again") from error
        except Exception as error:  # what NumPy raises where the head of the file is junk, it doesn't say
            reason = files.reason(error)
            raise CaptureError(f"{path}: can't be read as a plain array ({reason}); capture again") from error
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise CaptureError(f"{path}: not a plain array; capture again")
        return array

    def _path(self, name: str) -> Path:
        return self.folder / f"{file_stem(name)}.npy"


@dataclass(frozen=True)
class Capture:
    """A finished model_io folder. `source` is what Source.describe() said, `canvas` the size the tensors are on.

    `request` is what was asked for, None where that isn't known.
    """

    folder: Path
    source: Mapping[str, object]
    canvas: Canvas
    samples: tuple[Sample, ...]
    request: Request | None = None

    @classmethod
    def open(cls, folder: Path) -> Capture:
        """Read capture.json; tensors are read when asked for. Raises CaptureError for anything but a capture."""
        return read_whole(folder, INDEX, lambda: cls._read(folder))

    @classmethod
    def _read(cls, folder: Path) -> Capture:
        index = folder / INDEX
        now = edition(folder, INDEX)
        try:
            content = _INDEX.validate_python(files.read_json(index, _MOST_BYTES))
            canvas = Canvas.from_json(content["canvas"])
        except FileNotFoundError as error:
            raise CaptureError(f"{index}: no such file; no capture was finished here, run capture") from error
        except ValidationError as error:
            seen = files.first_fault(error)
            raise CaptureError(f"{index}: not of this version: {seen}; capture again") from error
        except (OSError, ValueError, InputError) as error:
            raise CaptureError(f"{index}: can't be read ({files.reason(error)}); capture again") from error
        samples = tuple(
            Sample(
                each["id"],
                folder / each["id"],
                each.get("file"),
                each["height"],
                each["width"],
                each.get("digest"),
                edition=now,
            )
            for each in content["samples"]
        )
        taken: set[str] = set()
        for sample in samples:
            check_id(sample.id)
            refuse_twin(sample.id, taken, str(index))
        return cls(folder, content["source"], canvas, samples, content.get("request"))

    def require_model(self, source: Mapping[str, object]) -> None:
        """Raise CaptureError unless the tensors are of the model that `source` says, its weights and size apart."""
        own = {key: source.get(key) for key in ("kind", "name")}
        self.require_source({**self.source, **json.loads(json.dumps(own))})

    def lacks(
        self,
        source: Mapping[str, object],
        boundary: Collection[str],
        images: Iterable[InputImage | tuple[str, Array]],
    ) -> str | None:
        """Say what of it is not as it would be captured now, None where all is; it may hold more.

        Only the pixels tell whether `images` are those that were captured, and they must be the first ones.
        """
        if self.request is None:
            return "an earlier version made it, which didn't note what was asked for"
        wanted = json.loads(json.dumps(source))
        changed = [key for key in {**wanted, **self.source} if wanted.get(key) != self.source.get(key)]
        if changed:
            key = changed[0]
            return f"it is of a source with {key} {self.source.get(key)!r}, now {wanted.get(key)!r}"
        absent = [name for name in boundary if name not in self.request.boundary]
        if absent:
            return f"it holds no '{absent[0]}', which is now between two parts"
        held = iter(self.samples)
        count = 0
        for image in images:
            name, pixels, _ = InputImage(*image)
            count += 1
            sample = next(held, None)
            if sample is not None and sample.id != name:
                return f"its image {count} is '{sample.id}', now '{name}'"
            if sample is not None and sample.digest != digest_of(pixels):
                return f"its image '{name}' is not what it was"
        if count > len(self.samples):
            return f"it holds {len(self.samples)} samples, now {count} are asked for"
        return None

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
    recover(folder)
    return (folder / INDEX).is_file()


def check_id(name: str) -> None:
    """Raise CaptureError for an image id that isn't a folder's name on every system."""
    if not files.is_plain_name(name) or name.casefold() == INDEX:
        raise CaptureError(f"image id {name!r} can't be a folder's name; rename the image")


def refuse_twin(name: str, taken: set[str], place: str) -> None:
    """Raise CaptureError for an id that another image has, on a file system that ignores case."""
    if name.casefold() in taken:
        raise CaptureError(f"{place}: two images have the id {name!r}, or differ in case only; rename one")
    taken.add(name.casefold())


def digest_of(pixels: Array) -> str:
    """Return what tells the pixels of an image from any others."""
    content = np.ascontiguousarray(pixels)
    return hashlib.sha256(f"{content.dtype} {content.shape} ".encode() + content.tobytes()).hexdigest()


def file_stem(name: str) -> str:
    stem = quote(name, safe=" ")
    if files.DEVICE_NAME.fullmatch(stem) or stem[:1] == ".":
        stem = f"%{ord(stem[0]):02X}{stem[1:]}"
    if not stem or len(stem) > files.LONGEST_NAME:
        raise CaptureError(f"tensor {name!r} can't be a file's name; leave it out of the boundary")
    return stem
