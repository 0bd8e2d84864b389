"""Plays the parts of a cut detector, one after another, with ONNX Runtime.

    detector = Detector.load(Path("model/shapes"))
    detections = detector(image)          # boxes, labels, scores, masks on the original image

A tensor between two parts on the CPU is never copied: ONNX Runtime reads an array where it lies and hands out the
memory that it wrote. A part with a frozen batch gets its rows in slices of that size, the last one filled up with zero
rows that are cut off again; no rows at all give empty outputs without a run. On the CPU a frozen batch is opened where
that changes nothing (`unfrozen_batch`), so that no row is computed to be thrown away.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import ModelProto

from graphsurgery.devices.providers import CPU, DeviceChoice, parse_devices, refuse_unknown_devices, require_installed
from graphsurgery.devices.session import Session
from graphsurgery.errors import InputError, ModelError
from graphsurgery.graph.model import Model
from graphsurgery.images.canvas import Canvas, Placed
from graphsurgery.parts.manifest import Manifest, PartEntry
from graphsurgery.runtime.unfrozen_batch import with_open_batch

_KEPT_TIMES = 1000


@dataclass
class Timer:
    """Adds up times in seconds; of the last 1,000 it can say more."""

    seconds: float = 0.0
    _kept: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_TIMES))

    def add(self, seconds: float) -> None:
        """Count one more run."""
        self.seconds += seconds
        self._kept.append(seconds)

    def reset(self) -> None:
        """Forget everything."""
        self.seconds = 0.0
        self._kept.clear()

    def summary(self) -> dict[str, float]:
        """Return `mean_ms`, `p50_ms` and `p90_ms` of the last runs; nothing where there was none."""
        if not self._kept:
            return {}
        times = np.array(self._kept) * 1e3
        middle, high = np.percentile(times, (50, 90))
        return {"mean_ms": float(times.mean()), "p50_ms": float(middle), "p90_ms": float(high)}


@dataclass
class PartPlayer:
    """One part in a session. `size` is how many rows that takes at once, None for any number."""

    entry: PartEntry
    session: Session
    size: int | None = None
    timer: Timer = field(default_factory=Timer, init=False)
    _padded: dict[str, _PaddedRows] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @staticmethod
    def open(
        model: ModelProto | Path,
        entry: PartEntry,
        device: DeviceChoice | None = None,
        *,
        optimise: bool,
        threads: int = 0,
        spin: bool = True,
        allow_fallback: bool = False,
    ) -> PartPlayer:
        """Load a part as it is. Raises ModelError when ONNX Runtime can't or when it is not the part that `entry`
        describes, MissingTool when a provider is not here, InputError when it would leave nodes to the CPU.
        """
        name = f"part '{entry.name}'"
        session = Session(
            model,
            name=name,
            optimise=optimise,
            threads=threads,
            device=device,
            allow_fallback=allow_fallback,
            spin=spin,
        )
        for kind, has, wants in (("inputs", session.inputs, entry.inputs), ("outputs", session.outputs, entry.outputs)):
            if set(has) != set(wants):
                raise ModelError(f"{name}: has {kind} {', '.join(has)}, but the manifest says {', '.join(wants)}")
        return PartPlayer(entry, session, entry.batch.size if entry.batch is not None else None)

    @property
    def seconds(self) -> float:
        """The time of all runs."""
        return self.timer.seconds

    def play(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the part on its inputs out of `tensors` and return its outputs."""
        begin = time.perf_counter()
        absent = [name for name in self.entry.inputs if name not in tensors]
        if absent:
            raise InputError(f"part '{self.entry.name}': input '{absent[0]}' is not given")
        inputs = {name: tensors[name] for name in self.entry.inputs}
        outputs = self.session.run(inputs) if self.entry.batch is None else self._by_rows(inputs)
        self.timer.add(time.perf_counter() - begin)
        return outputs

    def _by_rows(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        shapes = {name: value.shape for name, value in inputs.items()}
        if len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values():
            seen = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise InputError(f"part '{self.entry.name}': its inputs must have equally many rows, but are {seen}")
        count = next(iter(shapes.values()))[0]
        if count == 0:
            return {name: _empty(self.entry, name) for name in self.entry.outputs}
        if self.size is None:
            return self.session.run(inputs)
        with self._lock:  # the rows that are filled up lie in one place for all runs
            slices = [self._slice(inputs, start, self.size) for start in range(0, count, self.size)]
        return {
            name: slices[0][name][:count] if len(slices) == 1 else np.concatenate([s[name] for s in slices])[:count]
            for name in self.entry.outputs
        }

    def _slice(self, inputs: Mapping[str, np.ndarray], start: int, size: int) -> dict[str, np.ndarray]:
        given = {}
        for name, value in inputs.items():
            rows = value[start : start + size]
            if len(rows) < size:
                rows = self._padded.setdefault(name, _PaddedRows()).filled(rows, size)
            given[name] = rows
        return self.session.run(given)


class _PaddedRows:
    """Rows filled up with zeros, in memory that is used again: only what the last rows left is cleared."""

    def __init__(self) -> None:
        self._memory = np.zeros((0,))
        self._used = 0

    def filled(self, rows: np.ndarray, size: int) -> np.ndarray:
        shape = (size, *rows.shape[1:])
        if self._memory.shape != shape or self._memory.dtype != rows.dtype:
            self._memory, self._used = np.zeros(shape, rows.dtype), 0
        self._memory[: len(rows)] = rows
        self._memory[len(rows) : self._used] = 0
        self._used = len(rows)
        return self._memory


@dataclass(frozen=True)
class Chain:
    """The parts, played in order."""

    players: tuple[PartPlayer, ...]
    outputs: tuple[str, ...]

    @staticmethod
    def open(
        folder: Path,
        manifest: Manifest,
        devices: Mapping[str, DeviceChoice],
        *,
        optimise: bool = True,
        threads: int = 0,
        spin: bool = True,
        allow_fallback: bool = False,
    ) -> Chain:
        """Load the parts in `folder`. Raises as PartPlayer.open does, and ModelError for a file that is no model.

        With `optimise`, batches of parts on the CPU are opened where that is safe; without it, all is as the files say.
        """
        players = []
        for part in manifest.parts:
            device = devices.get(part.device)
            path = folder / part.file
            model = Model.load(path).proto  # refuses what is no model, and data outside the folder
            on_cpu = device is None or not device.accelerates
            opened = with_open_batch(model, part) if optimise and on_cpu else None
            player = PartPlayer.open(
                opened or path,
                part,
                device,
                optimise=optimise,
                threads=threads,
                spin=spin,
                allow_fallback=allow_fallback,
            )
            if opened is not None:
                player.size = None
            players.append(player)
        return Chain(tuple(players), tuple(manifest.outputs))

    def play(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the detector's outputs for its inputs."""
        tensors = dict(inputs)
        for index in range(len(self.players)):
            self.play_part(index, tensors)
        return {name: tensors[name] for name in self.outputs}

    def play_part(self, index: int, tensors: dict[str, np.ndarray]) -> None:
        """Add what one part writes to `tensors`, and let go of what no part behind it reads."""
        tensors |= self.players[index].play(tensors)
        needed = {name for player in self.players[index + 1 :] for name in player.entry.inputs} | set(self.outputs)
        for name in [name for name in tensors if name not in needed]:
            del tensors[name]


@dataclass(frozen=True)
class Detector:
    """A detector made of parts: an image in, detections on that image out. `devices` says what plays them."""

    manifest: Manifest
    canvas: Canvas
    chain: Chain
    devices: Mapping[str, DeviceChoice] = field(default_factory=dict)

    @staticmethod
    def load(
        folder: Path,
        devices: Mapping[str, DeviceChoice] | None = None,
        *,
        threads: int = 0,
        spin: bool = True,
        allow_fallback: bool = False,
    ) -> Detector:
        """Load the parts in `folder`; `devices` maps device names of the manifest to providers, before what it says.

        `threads` are those of an operator on the CPU, 0 for ONNX Runtime's choice; without `spin` they sleep while
        another part works. Raises InputError for a folder without a valid manifest or with a part missing, and for a
        node that a provider would leave to the CPU unless `allow_fallback`; MissingTool for a provider that is not
        here.
        """
        manifest = Manifest.read(folder)
        refuse_unknown_devices(devices or {}, (part.device for part in manifest.parts), str(folder))
        chosen = parse_devices(f"{device}={choice}" for device, choice in manifest.devices.items()) | dict(
            devices or {}
        )
        require_installed(chosen)
        canvas = Canvas.from_json(manifest.canvas)
        chain = Chain.open(folder, manifest, chosen, threads=threads, spin=spin, allow_fallback=allow_fallback)
        return Detector(manifest, canvas, chain, {part.device: chosen.get(part.device, CPU) for part in manifest.parts})

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return boxes [M,4], labels [M], scores [M] and masks [M,1,h,w] (or keypoints) in pixels of `image`.

        `image` is uint8, h x w x 3. Masks are probabilities. Raises InputError for another shape or dtype, and where
        the parts give no boxes.
        """
        placed = self.place(image)
        return placed.restore(self.on_canvas(placed))

    def place(self, image: np.ndarray) -> Placed:
        """Put an image on the canvas. Raises as a call does."""
        if "boxes" not in self.manifest.outputs:
            raise InputError(f"the parts give {', '.join(self.manifest.outputs)} and no boxes; they are no detector")
        return self.canvas.fit(image)

    def on_canvas(self, placed: Placed) -> dict[str, np.ndarray]:
        """Return the network's own outputs: boxes in canvas pixels, `masks` [M,1,m,m] where there are probabilities."""
        return self.detections(self.chain.play(self.inputs(placed)))

    def inputs(self, placed: Placed) -> dict[str, np.ndarray]:
        """Return what the chain is played on."""
        name = self.manifest.input
        if self.manifest.normalise:
            return {name: np.asarray(self.canvas.normalise(placed.input))}
        readers = [part.inputs[name] for part in self.manifest.parts if name in part.inputs]
        with_batch = any(tensor.shape is not None and len(tensor.shape) == 4 for tensor in readers)
        return {name: placed.input[None] if with_batch else placed.input}

    def detections(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the chain's outputs by the names that detections have."""
        found = {name: outputs[name] for name in self.manifest.outputs}
        if self.manifest.masks is not None:
            found["masks"] = found.pop(self.manifest.masks)
        elif "masks" in found:  # pasted on the canvas by the graph itself
            found["masks_pasted"] = found.pop("masks")
        return found

    def warm_up(self, image: np.ndarray, runs: int = 1) -> None:
        """Detect in an image and forget it, times included: the first runs of a session take longer."""
        for _ in range(runs):
            self(image)
        for player in self.chain.players:
            player.timer.reset()

    @property
    def seconds(self) -> dict[str, float]:
        """Time spent in each part so far."""
        return {player.entry.name: player.seconds for player in self.chain.players}


def _empty(entry: PartEntry, name: str) -> np.ndarray:
    tensor = entry.outputs[name]
    if tensor.shape is None or not all(isinstance(size, int) for size in tensor.shape[1:]):
        raise InputError(f"part '{entry.name}': the shape of its output '{name}' is not known, so no rows can't be run")
    return np.zeros((0, *(int(size) for size in tensor.shape[1:] if isinstance(size, int))), np.dtype(tensor.dtype))
