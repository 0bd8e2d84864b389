"""What a simulator plays, a part that was compiled, and the session of one that runs in a toolchain.

    {"do": "open", "key": K, "folder": F, ...}                              -> {}
    {"do": "infer", "key": K, "inputs": [X.npy, ...], "outputs": F}         -> {"outputs": [0.npy, ...]}

are what its worker answers; the first may have more for it to know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphsurgery.compiling.compiled import Compiled
from graphsurgery.devices.time_limit import time_limit
from graphsurgery.errors import InputError
from graphsurgery.files import reason
from graphsurgery.graph.light import read_light
from graphsurgery.graph.protos import required_inputs
from graphsurgery.parts.folder import sha256_of
from graphsurgery.parts.manifest import COMPILED, COMPILED_FILE
from graphsurgery.processes.worker import Running
from graphsurgery.toolchains import ToolWorker

_OPEN_SECONDS = 7200.0
_NO_LIMIT = 1e9


@dataclass(frozen=True)
class CompiledPart:
    """The folder that holds all about a compiled part, and what compiled.json says of all of them."""

    folder: Path
    compiled: Compiled


def compiled_part(part: Path, compiler: str, name: str) -> CompiledPart:
    """Return what `compiler` made of the part whose file is `part`; `name` begins messages.

    Raises InputError where it made nothing of it, or of another file of that name.
    """
    place = part.parent / COMPILED / compiler
    again = f"python -m graphsurgery compile {part.parent} --with {compiler}"
    if not (place / COMPILED_FILE).is_file():
        raise InputError(f"{name}: '{compiler}' plays what was compiled, and nothing was; compile the parts: {again}")
    compiled = Compiled.read(place)
    if part.stem not in compiled.parts or not (place / part.stem).is_dir():
        raise InputError(f"{name}: was not compiled for '{compiler}' with the others; compile them all: {again}")
    if compiled.parts[part.stem] not in (None, sha256_of(part)):
        raise InputError(f"{name}: {place} was compiled of another file of that name; compile it once more: {again}")
    if not compiled.ran:
        raise InputError(f"{name}: {place} holds files that were not compiled yet; compile them: {again}")
    return CompiledPart(place / part.stem, compiled)


def ask_for(made: CompiledPart, wanted: Mapping[str, str | None], name: str) -> None:
    """Raise InputError unless a part was compiled with these options; those that are None are not asked for."""
    for option, value in wanted.items():
        there = made.compiled.options.get(option)
        if value is not None and there != value:
            raise InputError(
                f"{name}: was compiled with {option}={there}, and {value} is asked for; compile it for that"
            )


def refuse_left(made: CompiledPart, part: Path, name: str, target: str) -> None:
    """Raise InputError where operators of a part were left to the CPU; `target` is who knows what helps."""
    report = made.compiled.reports.get(part.stem)
    if report is not None and report.left:
        first, total = report.left[0], report.accelerated + len(report.left)
        raise InputError(
            f"{name}: '{made.compiled.compiler}' leaves {len(report.left)} of {total} operators to the CPU, "
            f"{first.operator} '{first.name}' first; see what helps: "
            f"python -m graphsurgery support {part} --target {target}"
        )


class SimulatedPart:
    """A part in a worker's simulator, opened there as `opening` says; another process opens it anew.

    Raises InputError, as `run` does, where the simulator refuses it, crashes or takes too long; MissingTool.
    """

    def __init__(
        self, running: Running[ToolWorker], part: Path, folder: Path, name: str, opening: Mapping[str, Any]
    ) -> None:
        place = str(folder.absolute())
        self._running, self._name, self._key = running, name, place
        self._opening = {**opening, "do": "open", "folder": place}
        self._worker: ToolWorker | None = None
        graph = read_light(part).graph
        self.inputs = [info.name for info in required_inputs(graph)]
        self.outputs = [info.name for info in graph.output]
        self._shapes = [[size.dim_value for size in info.type.tensor_type.shape.dim] for info in graph.output]
        with running.use() as worker:
            self._open(worker)

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return the named outputs, all when None, in the shapes of the part, whatever the tool did with them."""
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise InputError(f"{self._name}: input '{missing[0]}' is not given")
        with self._running.use() as worker:
            if worker is not self._worker:
                self._open(worker)
            try:
                found = self._infer(worker, [np.asarray(inputs[name]) for name in self.inputs])
            except OSError as error:
                raise InputError(f"{self._name}: {worker.folder}: can't be written ({reason(error)})") from error
        return {name: found[self.outputs.index(name)] for name in (self.outputs if outputs is None else outputs)}

    def _infer(self, worker: ToolWorker, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        files = [worker.folder / f"in_{index}.npy" for index in range(len(inputs))]
        for file, values in zip(files, inputs, strict=True):
            np.save(file, values)
        request = {"do": "infer", "inputs": list(map(str, files)), "outputs": str(worker.folder)}
        reply = self._ask(worker, request, min(time_limit(), _NO_LIMIT))
        found = [np.load(worker.folder / str(file)) for file in reply["outputs"]]
        if [values.size for values in found] != [int(np.prod(shape)) for shape in self._shapes]:
            seen = ", ".join(str(list(values.shape)) for values in found)
            raise InputError(f"{self._name}: the simulator gives {seen}, and the part {self._shapes}")
        return [values.reshape(shape) for values, shape in zip(found, self._shapes, strict=True)]

    def _open(self, worker: ToolWorker) -> None:
        self._ask(worker, self._opening, _OPEN_SECONDS)
        self._worker = worker

    def _ask(self, worker: ToolWorker, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        given = {**request, "key": self._key, "log": str(worker.folder / "log")}
        try:
            return worker.ask(given, seconds)
        except InputError as error:
            raise InputError(f"{self._name}: {error}") from error
