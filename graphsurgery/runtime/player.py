"""Plays parts, one after another, with ONNX Runtime.

A tensor between two parts on the CPU is never copied: ONNX Runtime reads an array where it lies and hands out the
memory that it wrote. A part with a frozen batch gets its rows in slices of that size, the last one filled up with zero
rows that are cut off again, and its parameters whole with each slice; no rows at all give empty outputs without a run.
On the CPU a frozen batch is opened where that changes nothing (`unfrozen_batch`), so that no row is computed to be
thrown away, and its convolutions take fewer products where that pays (`winograd`).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import ModelProto

from graphsurgery.devices.providers import DeviceChoice
from graphsurgery.devices.session import Session
from graphsurgery.devices.simulators import Plays
from graphsurgery.errors import InputError, ModelError
from graphsurgery.graph.model import Model
from graphsurgery.parts.manifest import Batch, Manifest, PartEntry
from graphsurgery.runtime.threads import AS_IT_LIKES, Threads
from graphsurgery.runtime.timer import Timer
from graphsurgery.runtime.unfrozen_batch import with_open_batch
from graphsurgery.runtime.winograd import with_fewer_products

_MOST_BYTES = 2**30  # of rows that are filled up
# Rows of an opened batch that are computed at once: of a thousand boxes each layer would write hundreds of MB.
_AT_ONCE = 128


@dataclass
class PartPlayer:
    """One part in a session. `size` is how many rows that takes at once, None for any number."""

    entry: PartEntry
    session: Plays
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
        simulator = device.simulator if device is not None else None
        session: Plays
        if device is not None and simulator is not None:
            if not isinstance(model, Path):
                raise InputError(f"{name}: {device.provider} plays what was compiled of a part in a folder")
            session = simulator.open(model, device.options, name, allow_fallback=allow_fallback)
        else:
            session = Session(
                model,
                name=name,
                optimise=optimise,
                threads=threads,
                device=device,
                allow_fallback=allow_fallback,
                spin=spin,
                one_arena=optimise,
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
        batch = self.entry.batch
        outputs = self.session.run(inputs) if batch is None else self._by_rows(inputs, batch)
        self.timer.add(time.perf_counter() - begin)
        return outputs

    def _by_rows(self, inputs: Mapping[str, np.ndarray], batch: Batch) -> dict[str, np.ndarray]:
        shapes = {name: inputs[name].shape for name in batch.inputs}
        if len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values():
            seen = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise InputError(f"part '{self.entry.name}': its inputs must have equally many rows, but are {seen}")
        count = next(iter(shapes.values()))[0]
        if count == 0 and len(batch.outputs) == len(self.entry.outputs):
            return {name: _empty(self.entry, name) for name in self.entry.outputs}
        starts = range(0, max(count, 1), self.size or _AT_ONCE)
        if self.size is None:
            slices = [self.session.run(_rows(inputs, batch.inputs, start, _AT_ONCE)) for start in starts]
        else:
            with self._lock:  # the rows that are filled up lie in one place for all runs
                slices = [self._filled(inputs, batch.inputs, start, self.size) for start in starts]
        outputs = dict(slices[0])  # what has no rows is the same in all
        for name in batch.outputs:
            whole = outputs[name] if len(slices) == 1 else np.concatenate([each[name] for each in slices])
            outputs[name] = whole[:count]
        return outputs

    def _filled(
        self, inputs: Mapping[str, np.ndarray], with_rows: Collection[str], start: int, size: int
    ) -> dict[str, np.ndarray]:
        given = _rows(inputs, with_rows, start, size)
        for name in with_rows:
            if len(given[name]) < size:
                given[name] = self._padded.setdefault(name, _PaddedRows()).filled(given[name], size)
        return self.session.run(given)


def _rows(inputs: Mapping[str, np.ndarray], with_rows: Collection[str], start: int, size: int) -> dict[str, np.ndarray]:
    return {**inputs, **{name: inputs[name][start : start + size] for name in with_rows}}


class _PaddedRows:
    """Rows filled up with zeros, in memory that is used again: only what the last rows left is cleared."""

    def __init__(self) -> None:
        self._memory = np.zeros((0,))
        self._used = 0

    def filled(self, rows: np.ndarray, size: int) -> np.ndarray:
        shape = (size, *rows.shape[1:])
        if math.prod(shape) * rows.dtype.itemsize > _MOST_BYTES:
            raise InputError(f"a batch of {size} rows of {list(shape[1:])} is larger than {_MOST_BYTES} bytes")
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
        threads: Threads = AS_IT_LIKES,
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
                with_fewer_products(opened) if opened is not None else path,
                part,
                device,
                optimise=optimise,
                threads=threads.of(part.name),
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


def _empty(entry: PartEntry, name: str) -> np.ndarray:
    tensor = entry.outputs[name]
    if tensor.shape is None or not all(isinstance(size, int) for size in tensor.shape[1:]):
        raise InputError(f"part '{entry.name}': the shape of its output '{name}' is not known, so no rows can't be run")
    return np.zeros((0, *(int(size) for size in tensor.shape[1:] if isinstance(size, int))), np.dtype(tensor.dtype))
