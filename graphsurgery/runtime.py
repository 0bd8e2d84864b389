"""Plays the parts of a cut detector, one after another, with ONNX Runtime.

    detector = Detector.load(Path("model/shapes"))
    detections = detector(image)          # boxes, labels, scores, masks on the original image

A part with a frozen batch gets its rows in slices of that size, the last one padded with zero rows that are cut off
again; no rows at all give empty outputs without a run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import ModelProto

from graphsurgery.errors import InputError, ModelError
from graphsurgery.images import Canvas, Placed
from graphsurgery.manifest import Manifest, PartEntry
from graphsurgery.model import Model
from graphsurgery.providers import ort_providers
from graphsurgery.session import Session


@dataclass
class PartPlayer:
    """One part in a session; `seconds` adds up the time of its runs."""

    entry: PartEntry
    session: Session
    seconds: float = field(default=0.0, init=False)

    @staticmethod
    def open(
        model: ModelProto | Path, entry: PartEntry, providers: Sequence[str], *, optimise: bool, threads: int = 0
    ) -> PartPlayer:
        """Load a part. Raises ModelError when ONNX Runtime can't or when it is not the part that `entry` describes,
        MissingTool when a provider is not here.
        """
        name = f"part '{entry.name}'"
        session = Session(model, name=name, optimise=optimise, threads=threads, providers=providers)
        for kind, has, wants in (("inputs", session.inputs, entry.inputs), ("outputs", session.outputs, entry.outputs)):
            if set(has) != set(wants):
                raise ModelError(f"{name}: has {kind} {', '.join(has)}, but the manifest says {', '.join(wants)}")
        return PartPlayer(entry, session)

    def play(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the part on its inputs out of `tensors` and return its outputs."""
        begin = time.perf_counter()
        absent = [name for name in self.entry.inputs if name not in tensors]
        if absent:
            raise InputError(f"part '{self.entry.name}': input '{absent[0]}' is not given")
        inputs = {name: tensors[name] for name in self.entry.inputs}
        outputs = self.session.run(inputs) if self.entry.batch is None else self._in_slices(inputs)
        self.seconds += time.perf_counter() - begin
        return outputs

    def _in_slices(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert self.entry.batch is not None
        size = self.entry.batch.size
        shapes = {name: value.shape for name, value in inputs.items()}
        if len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values():
            seen = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise InputError(f"part '{self.entry.name}': its inputs must have equally many rows, but are {seen}")
        count = next(iter(shapes.values()))[0]
        if count == 0:
            return {name: _empty(self.entry, name) for name in self.entry.outputs}
        slices: list[dict[str, np.ndarray]] = []
        for start in range(0, count, size):
            given = {name: _filled(value[start : start + size], size) for name, value in inputs.items()}
            slices.append(self.session.run(given))
        return {
            name: slices[0][name][:count] if len(slices) == 1 else np.concatenate([s[name] for s in slices])[:count]
            for name in self.entry.outputs
        }


@dataclass(frozen=True)
class Chain:
    """The parts, played in order."""

    players: tuple[PartPlayer, ...]
    outputs: tuple[str, ...]

    @staticmethod
    def open(
        folder: Path, manifest: Manifest, devices: Mapping[str, str], *, optimise: bool = True, threads: int = 0
    ) -> Chain:
        """Load the parts in `folder`. Raises as PartPlayer.open does, and ModelError for a file that is no model."""
        players = []
        for part in manifest.parts:
            providers = ort_providers(part.device, devices)
            path = folder / part.file
            Model.load(path)  # refuses what is no model, and data outside the folder
            players.append(PartPlayer.open(path, part, providers, optimise=optimise, threads=threads))
        return Chain(tuple(players), tuple(manifest.outputs))

    def play(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the detector's outputs for its inputs; a boundary tensor is let go after its last reader."""
        tensors = dict(inputs)
        last = {name: index for index, player in enumerate(self.players) for name in player.entry.inputs}
        for index, player in enumerate(self.players):
            tensors |= player.play(tensors)
            for name in [n for n in tensors if last.get(n, index) <= index and n not in self.outputs]:
                del tensors[name]
        return {name: tensors[name] for name in self.outputs}


@dataclass(frozen=True)
class Detector:
    """A detector made of parts: an image in, detections on that image out."""

    manifest: Manifest
    canvas: Canvas
    chain: Chain

    @staticmethod
    def load(folder: Path, devices: Mapping[str, str] | None = None, *, threads: int = 0) -> Detector:
        """Load the parts in `folder`; `devices` maps device names of the manifest to providers.

        Raises InputError for a folder without a valid manifest or with a part missing, MissingTool for a provider
        that is not here.
        """
        manifest = Manifest.read(folder)
        devices = dict(devices or {})
        unknown = sorted(set(devices) - {part.device for part in manifest.parts})
        if unknown:
            there = ", ".join(sorted({part.device for part in manifest.parts}))
            raise InputError(f"{folder}: no part is on device '{unknown[0]}'; the parts are on {there}")
        canvas = Canvas.from_json(manifest.canvas)
        return Detector(manifest, canvas, Chain.open(folder, manifest, devices, threads=threads))

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return boxes [M,4], labels [M], scores [M] and masks [M,1,h,w] (or keypoints) in pixels of `image`.

        `image` is uint8, h x w x 3. Masks are probabilities. Raises InputError for another shape or dtype, and where
        the parts give no boxes.
        """
        if "boxes" not in self.manifest.outputs:
            raise InputError(f"the parts give {', '.join(self.manifest.outputs)} and no boxes; they are no detector")
        placed = self.canvas.fit(image)
        return placed.restore(self.on_canvas(placed))

    def on_canvas(self, placed: Placed) -> dict[str, np.ndarray]:
        """Return the network's own outputs: boxes in canvas pixels, `masks` [M,1,m,m] where there are probabilities."""
        found = self.chain.play({self.manifest.input: self._input(placed)})
        if self.manifest.masks is not None:
            found["masks"] = found.pop(self.manifest.masks)
        elif "masks" in found:  # pasted on the canvas by the graph itself
            found["masks_pasted"] = found.pop("masks")
        return found

    def _input(self, placed: Placed) -> np.ndarray:
        if self.manifest.normalise:
            return np.asarray(self.canvas.normalise(placed.input))
        name = self.manifest.input
        readers = [part.inputs[name] for part in self.manifest.parts if name in part.inputs]
        with_batch = any(tensor.shape is not None and len(tensor.shape) == 4 for tensor in readers)
        return placed.input[None] if with_batch else placed.input

    @property
    def seconds(self) -> dict[str, float]:
        """Time spent in each part so far."""
        return {player.entry.name: player.seconds for player in self.chain.players}


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    if len(rows) == size:
        return rows
    filled = np.zeros((size, *rows.shape[1:]), rows.dtype)
    filled[: len(rows)] = rows
    return filled


def _empty(entry: PartEntry, name: str) -> np.ndarray:
    tensor = entry.outputs[name]
    if tensor.shape is None or not all(isinstance(size, int) for size in tensor.shape[1:]):
        raise InputError(f"part '{entry.name}': the shape of its output '{name}' is not known, so no rows can't be run")
    return np.zeros((0, *(int(size) for size in tensor.shape[1:] if isinstance(size, int))), np.dtype(tensor.dtype))
