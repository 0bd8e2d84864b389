"""What parts read, run by run, for tools that calibrate, and what the tool computed of it, against ONNX Runtime.

    PART/calibration/J.npy    [runs, shape of the part's input J]
    PART/first/J.npy          what ONNX Runtime computes of the first run, output J
    PART/computed/J.npy       [runs, shape of output J]: what the tool computed, in float; taken away once compared

A run is what the runtime gives a part at once: a frozen batch of rows, the last one filled up.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphsurgery.compiling.compiler import Job
from graphsurgery.devices.session import Session
from graphsurgery.errors import CaptureError, InputError, PassError
from graphsurgery.images.files import ImageFile, load_image
from graphsurgery.progress import Progress
from graphsurgery.quantize.calibration import Feed, Feeds
from graphsurgery.quantize.sqnr import Noise
from graphsurgery.rewrite.context import Captured
from graphsurgery.runtime.detector import Detector

CALIBRATION, FIRST, COMPUTED = "calibration", "first", "computed"


@dataclass(frozen=True)
class Played:
    """The tensors of one image as parts that were played on the CPU left them."""

    id: str
    tensors: Mapping[str, npt.NDArray[Any]]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def load(self, name: str) -> npt.NDArray[Any]:
        """Return one tensor by name."""
        return self.tensors[name]


def played(detector: Detector, images: Sequence[ImageFile], names: set[str]) -> list[Captured]:
    """Return the tensors `names` of each image, by parts on the CPU. Raises InputError for one that can't be read."""
    found: list[Captured] = []
    for image in images:
        tensors = dict(detector.inputs(detector.canvas.fit(load_image(image.path))))
        read: dict[str, npt.NDArray[Any]] = {}
        for index, player in enumerate(detector.chain.players):
            # before it is played: what no part behind it reads is let go of
            read |= {name: tensors[name] for name in player.entry.inputs if name in names}
            detector.chain.play_part(index, tensors)
        found.append(Played(image.path.stem, read))
    return found


def completed(detector: Detector, samples: Sequence[Captured], names: set[str]) -> list[Captured]:
    """Return captured samples with those of the tensors `names` that nobody captured, by parts on the CPU.

    A cut may go through a tensor that the original model has no name for. What such a tensor depends on is played, from
    what was captured; a tensor that can't be had so stays missing.
    """
    return [_Completed(sample, _missing_of(detector, sample, names)) for sample in samples]


def _missing_of(detector: Detector, sample: Captured, names: set[str]) -> dict[str, npt.NDArray[Any]]:
    wanted = {name for name in names if name not in sample}
    playing = []
    for player in reversed(detector.chain.players):
        if not wanted.isdisjoint(player.entry.outputs):
            wanted |= {name for name in player.entry.inputs if name not in sample}
            playing.append(player)
    found: dict[str, npt.NDArray[Any]] = {}
    for player in reversed(playing):
        reads = {name: sample.load(name) for name in player.entry.inputs if name in sample}
        reads |= {name: found[name] for name in player.entry.inputs if name in found}
        if len(reads) == len(player.entry.inputs):
            found |= {name: value for name, value in player.play(reads).items() if name in wanted}
    return found


@dataclass(frozen=True)
class _Completed:
    """A captured sample, and what was computed of it."""

    captured: Captured
    computed: Mapping[str, npt.NDArray[Any]]

    @property
    def id(self) -> str:
        return self.captured.id

    def __contains__(self, name: str) -> bool:
        return name in self.computed or name in self.captured

    def load(self, name: str) -> npt.NDArray[Any]:
        """Return one tensor by name."""
        return self.computed[name] if name in self.computed else self.captured.load(name)


@dataclass(frozen=True)
class Feeding:
    """Runs of one part: no more than `most`, spread evenly over the samples. Raises CaptureError where none is left."""

    job: Job
    feeds: Feeds
    most: int

    @staticmethod
    def of(job: Job, samples: Sequence[Captured], most: int) -> Feeding:
        """Return the runs of a part in `samples`. Raises CaptureError for samples that don't fit it."""
        try:
            return Feeding(job, Feeds(job.model.proto, samples), most)
        except CaptureError as error:
            raise CaptureError(f"part '{job.name}': {error}") from error

    def __len__(self) -> int:
        return min(self.most, len(self.feeds))

    def __iter__(self) -> Iterator[Feed]:
        every = len(self.feeds)
        taken = {index * every // len(self) for index in range(len(self))}
        return (feed for index, feed in enumerate(self.feeds.runs()) if index in taken)

    def write(self) -> None:
        """Write what the part reads, and what ONNX Runtime computes of the first run. Raises OSError."""
        inputs = list(self.job.entry.inputs)
        for number, feed in enumerate(self):
            if not number:
                files = [self._made(index, feed.inputs[name]) for index, name in enumerate(inputs)]
                outputs = Session(self.job.model.proto, name=f"part '{self.job.name}'").run(feed.inputs)
                (self.job.folder / FIRST).mkdir()
                for index, name in enumerate(self.job.entry.outputs):
                    np.save(self.job.folder / FIRST / f"{index}.npy", outputs[name])
            for file, name in zip(files, inputs, strict=True):
                file[number] = feed.inputs[name]
        for file in files:
            file.flush()

    def _made(self, index: int, like: npt.NDArray[Any]) -> np.memmap[Any, Any]:
        folder = self.job.folder / CALIBRATION
        folder.mkdir(exist_ok=True)
        shape = (len(self), *like.shape)
        return np.lib.format.open_memmap(folder / f"{index}.npy", mode="w+", dtype=like.dtype, shape=shape)

    def compare(self, progress: Progress) -> dict[str, float] | None:
        """Return the SQNR in dB of each output that the tool computed, None where it computed nothing.

        What it computed is removed. Raises InputError where that isn't of the part.
        """
        folder = self.job.folder / COMPUTED
        if not folder.is_dir():
            return None
        computed = {name: _read(folder / f"{i}.npy", name) for i, name in enumerate(self.job.entry.outputs)}
        session, noise = Session(self.job.model.proto, name=f"part '{self.job.name}'"), Noise()
        for number, feed in enumerate(self):
            try:
                noise.add(session.run(feed.inputs), {n: each[number] for n, each in computed.items()}, feed.rows)
            except (IndexError, PassError) as error:
                raise InputError(f"part '{self.job.name}': the tool computed another shape: {error}") from error
            progress(number + 1, len(self))
        del computed
        shutil.rmtree(folder)
        return noise.decibels()


def _read(path: Path, name: str) -> npt.NDArray[Any]:
    try:
        found: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: should hold what the tool computed of output '{name}' ({error})") from error
    return found
