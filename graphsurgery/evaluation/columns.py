"""What is evaluated, side by side: the original, its parts, and the variants of them in sub folders.

A column's fingerprint is that of everything its detections depend on, the image and the number of threads aside: the
bytes of the parts, the providers of their devices, and the version of what runs them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from graphsurgery.devices.choices import parse_devices
from graphsurgery.errors import InputError
from graphsurgery.files.commit import read_whole
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import stored_outside
from graphsurgery.images.canvas import Canvas, CanvasImage
from graphsurgery.images.preprocessing import Preprocessing
from graphsurgery.parts.folder import read_parts, sha256_of
from graphsurgery.parts.manifest import FILE_NAME, Manifest
from graphsurgery.sources import Source, SourceSpec

Detections = Mapping[str, npt.NDArray[Any]]

ORIGINAL, PARTS = "original", "parts"
_FORMAT = 1


class Opened(NamedTuple):
    """A detector that is ready: what it wants an image placed on, and what it finds there, in canvas pixels.

    It is given the image's file too, for what was found elsewhere lies under its name.
    """

    canvas: Canvas
    detect: Callable[[CanvasImage, Path], Detections]


class Column(Protocol):
    """One detector among those compared; it can be sent to another process unless it is Loaded."""

    @property
    def name(self) -> str:
        """What tables and files call it."""

    @property
    def fingerprint(self) -> str:
        """Equal means the same detections for the same image and number of threads."""

    def check(self) -> None:
        """Raise InputError unless what the fingerprint is of can be found from here."""

    def open(self, threads: int) -> Opened:
        """Load it, to compute with `threads` threads; 0 leaves their number to what runs it."""


@dataclass(frozen=True)
class Loaded:
    """A detector that is open already and stays in this process."""

    name: str
    canvas: Canvas
    detect: Callable[[CanvasImage, Path], Detections]
    fingerprint: str = ""

    def check(self) -> None:
        """As Column."""

    def open(self, threads: int) -> Opened:
        """As Column; `threads` is what it was opened with."""
        return Opened(self.canvas, self.detect)


@dataclass(frozen=True)
class PartsColumn:
    """A folder of parts. `devices` are the providers that were given for its devices, as --device has them.

    `on_cpu` says whether no part is on an accelerator, which several processes would have to share; `allow_fallback`
    whether a provider may leave nodes to the CPU.
    """

    name: str
    folder: Path
    devices: tuple[tuple[str, str], ...]
    fingerprint: str
    on_cpu: bool
    allow_fallback: bool = False

    @staticmethod
    def of(
        name: str, folder: Path, devices: Mapping[str, str] | None = None, *, allow_fallback: bool = False
    ) -> PartsColumn:
        """Describe the parts in `folder`. `devices`, as {"npu": "qnn,soc_model=60"}, go before what the manifest says.

        Raises InputError for a folder without manifest and for a device that no part is on, ModelError for a part that
        is missing or broken.
        """
        return read_parts(
            folder, lambda manifest: PartsColumn._of(name, folder, manifest, devices or {}, allow_fallback)
        )

    @staticmethod
    def _of(
        name: str, folder: Path, manifest: Manifest, devices: Mapping[str, str], allow_fallback: bool
    ) -> PartsColumn:
        there = sorted({part.device for part in manifest.parts})
        absent = sorted(set(devices) - set(there))
        if absent:
            raise InputError(f"{folder}: no part is on device '{absent[0]}'; the parts are on {', '.join(there)}")
        chosen = {**manifest.devices, **devices}
        on = {device: chosen.get(device, "cpu") for device in there}
        plugins = [] if set(on.values()) == {"cpu"} else ["onnxruntime-qnn"]
        read = {part.file: part.sha256 for part in manifest.parts}  # `read_parts` has compared them
        content = {
            "format": _FORMAT,
            "manifest": manifest.model_dump(
                mode="json",
                exclude={
                    "variants": True,
                    "devices": True,
                    "evaluation": True,
                    "parts": {"__all__": {"size", "sha256"}},
                },
            ),
            "files": {
                file.name: read.get(file.name) or sha256_of(file)
                for part in manifest.parts
                for file in _files(folder, part.file)
            },
            "devices": on,
            "versions": _versions("onnxruntime", *plugins),
            **({"allow_fallback": True} if allow_fallback else {}),
        }
        on_cpu = set(chosen.values()) <= {"cpu"}
        return PartsColumn(name, folder, tuple(devices.items()), _digest(content), on_cpu, allow_fallback)

    def check(self) -> None:
        """As Column."""
        now = PartsColumn.of(self.name, self.folder, dict(self.devices), allow_fallback=self.allow_fallback)
        if now.fingerprint != self.fingerprint:
            raise InputError(f"{self.folder}: holds other parts than when this began, or ONNX Runtime is another here")

    def open(self, threads: int) -> Opened:
        """As Column. Raises what check() and Detector.load do."""
        from graphsurgery.runtime.detector import Detector

        def load() -> Detector:
            self.check()
            devices = parse_devices([f"{device}={provider}" for device, provider in self.devices])
            return Detector.load(self.folder, devices, threads=threads, allow_fallback=self.allow_fallback)

        detector = read_whole(self.folder, FILE_NAME, load)
        return Opened(detector.canvas, lambda placed, _: detector.on_canvas(placed))


@dataclass(frozen=True)
class OriginalColumn:
    """The model that the parts were made of, on the canvas; `described` is what the manifest says of it."""

    spec: SourceSpec
    described: str
    fingerprint: str
    name: str = field(default=ORIGINAL, init=False)

    @staticmethod
    def of_source(spec: SourceSpec, described: Mapping[str, object]) -> OriginalColumn:
        """Describe the source that `spec` opens; `described` is what it says of itself."""
        bare = OriginalColumn(spec, json.dumps(described, sort_keys=True), "")
        return replace(bare, fingerprint=_digest(bare._content()))

    @staticmethod
    def of(manifest: Manifest, places: Sequence[Path], weights: str | None = None) -> OriginalColumn:
        """Describe the source of a manifest, which tells names and no folders: files are looked for in `places`.

        `weights` are those of a recipe or of --weights; of an ONNX file it is the file itself, whatever it is called
        now. Raises InputError for a file that lies in none of the places.
        """
        source = manifest.source
        try:
            kind, name, size = source["kind"], str(source["name"]), tuple(source["size"])
        except (KeyError, TypeError) as error:
            raise InputError(f"column {ORIGINAL}: the manifest doesn't say where the model came from") from error
        if kind == "onnx":
            image = Preprocessing.from_json(source.get("image", {}))
            path = str(_find(weights or name, places).resolve())
            spec = SourceSpec("onnx", path, None, (size[0], size[1]), image=image, detections=manifest.postprocessing)
            spec = replace(spec, inputs=source.get("inputs", {}), batch=source.get("batch"))
        else:
            chosen = weights or source.get("weights")
            if chosen is not None and Path(chosen).suffix:
                chosen = str(_find(chosen, places).resolve())
            spec = SourceSpec(kind, name, chosen, (size[0], size[1]), source.get("opset", 17))
        return OriginalColumn.of_source(spec, source)

    def check(self) -> None:
        """As Column: the version of what runs it, and the file that it lies in."""
        if _digest(self._content()) != self.fingerprint:
            raise InputError(f"column {ORIGINAL}: torch or ONNX Runtime is another here than where this began")
        lies_in = self.spec.name if self.spec.kind == "onnx" else self.spec.weights
        if lies_in is not None and Path(lies_in).is_absolute() and not Path(lies_in).is_file():
            raise InputError(f"column {ORIGINAL}: there is no {lies_in}")

    def _content(self) -> dict[str, object]:
        packages = ("onnxruntime",) if self.spec.kind == "onnx" else ("torch", "torchvision")
        return {"format": _FORMAT, "source": self.described, "versions": _versions(*packages)}

    def open(self, threads: int) -> Opened:
        """As Column. Raises InputError when it isn't the model that the parts were made of, and as open_source."""
        from graphsurgery.sources import open_source

        self.check()
        source = open_source(self.spec)
        seen, wanted = json.loads(json.dumps(source.describe())), json.loads(self.described)
        another = "name" if self.spec.kind == "onnx" else "weights"  # what it holds is told by weights_sha256
        different = [key for key in wanted if key != another and seen.get(key) != wanted[key]]
        if different:
            key = different[0]
            raise InputError(
                f"column {ORIGINAL}: {source.name} has {key} {seen.get(key)!r}, the parts were made of one with "
                f"{wanted[key]!r}; name its weights with --weights, or leave it out with --no-original"
            )
        return opened(source, self.spec.kind, threads)


def opened(source: Source, kind: str, threads: int) -> Opened:
    """Return the source as a detector that computes with `threads` threads; `kind` is that of its spec."""
    if kind == "onnx":
        return Opened(source.canvas, lambda placed, _: source.detect(placed))
    from graphsurgery.sources.torch_threads import torch_threads

    def detect(placed: CanvasImage, _: Path) -> Detections:
        with torch_threads(threads):
            return source.detect(placed)

    return Opened(source.canvas, detect)


def variants(folder: Path, manifest: Manifest) -> list[str]:
    """Return the names of the folders in `folder` that hold parts of their own: those that the manifest lists first.

    Raises InputError for one whose name is that of another column.
    """
    there = sorted(entry.name for entry in folder.iterdir() if (entry / FILE_NAME).is_file())
    names = list(dict.fromkeys([*manifest.variants, *there]))
    for name in names:
        if name in (ORIGINAL, PARTS):
            raise InputError(f"{folder / name}: '{name}' names a column of its own; rename this folder")
    return names


def _find(file: str, places: Sequence[Path]) -> Path:
    for place in places:
        if (place / file).is_file():
            return place / file
    tried = ", ".join(dict.fromkeys(str(place) for place in places))
    raise InputError(
        f"column {ORIGINAL}: '{file}' is in none of {tried}; name it with --weights, or leave the column out with "
        "--no-original"
    )


def _files(folder: Path, part: str) -> list[Path]:
    """Return a part's file and those that its external data lies in."""
    proto = Model.load(folder / part).proto
    outside = {entry.value for each in stored_outside(proto) for entry in each.external_data if entry.key == "location"}
    return [folder / name for name in (part, *sorted(outside))]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _versions(*packages: str) -> dict[str, str | None]:
    """Return the version of each package, None where it isn't installed; nothing is imported."""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {package: version(package) for package in packages}
