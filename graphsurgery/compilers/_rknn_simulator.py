"""The simulator of RKNN-Toolkit2, in a process of its own: it plays what was built in that process, and no .rknn file.

So what lies in compiled/rknn is built once more there, from the same file, options and samples, when a session opens
(seconds). One process has the models of all sessions. A crash ends it; the next run starts another and builds again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphsurgery.compiling.simulated import ask_for, compiled_part
from graphsurgery.devices.provider import Option, Provider
from graphsurgery.devices.simulators import Simulator
from graphsurgery.devices.time_limit import time_limit
from graphsurgery.errors import InputError
from graphsurgery.files import MB, read_bytes, read_json, reason
from graphsurgery.graph.light import read_light
from graphsurgery.processes.worker import Running
from graphsurgery.toolchains import ToolWorker, require
from graphsurgery.toolchains.tool_worker import WORKERS

SCRIPT = WORKERS / "rknn_worker.py"
_NAME = "rknn"
_BUILD_SECONDS = 7200.0
_NO_LIMIT = 1e9
_SAMPLE = re.compile(r"input/\d+_\d+\.npy")
# the arguments of RKNN.config that a compiler sets
CONFIGURED = (
    *("target_platform", "quantized_algorithm", "quantized_method", "optimization_level", "remove_reshape"),
    "op_target",
)

running = Running(lambda: ToolWorker(require(_NAME, f"device {_NAME}"), SCRIPT, "RKNN's simulator"))


class RknnSimulator(Simulator):
    """Plays a part on the CPU as Rockchip's NPU would, by the toolkit's word."""

    provider = Provider(
        "RKNN's simulator",
        "python -m graphsurgery toolchain install rknn",
        (Option("platform", "the chip that the parts must have been compiled for, such as rk3588"),),
        ("it plays what `compile --with rknn` made, on x86-64 Linux",),
        target="rk3588",
    )

    @classmethod
    def require(cls, place: str) -> None:
        require(_NAME, place)

    @classmethod
    def open(cls, part: Path, options: Mapping[str, str], name: str, *, allow_fallback: bool) -> _Simulated:
        made = compiled_part(part, _NAME, name)
        ask_for(made, {"target_platform": options.get("platform")}, name)
        placed = made.compiled.placed.get(part.stem)
        if placed is not None and placed.on_cpu and not allow_fallback:
            first, target = placed.on_cpu[0], cls.provider.target
            raise InputError(
                f"{name}: RKNN leaves {len(placed.on_cpu)} of {placed.layers} layers to the CPU, {first.op} "
                f"'{first.name}' first; see what helps: python -m graphsurgery support {part} --target {target}"
            )
        return _Simulated(made.folder, part.stem, name)


class _Simulated:
    """One part in the simulator."""

    def __init__(self, folder: Path, part: str, name: str) -> None:
        self._folder, self._part, self._name = folder.absolute(), part, name
        self._worker: ToolWorker | None = None
        graph = read_light(folder / f"{part}.onnx").graph
        constants = {tensor.name for tensor in graph.initializer}
        self.inputs = [info.name for info in graph.input if info.name not in constants]
        self.outputs = [info.name for info in graph.output]
        self._shapes = [[size.dim_value for size in info.type.tensor_type.shape.dim] for info in graph.output]
        with running.use() as worker:
            self._build(worker)

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """As `Plays`. Where the process was ended meanwhile, another builds the part once more."""
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise InputError(f"{self._name}: input '{missing[0]}' is not given")
        with running.use() as worker:
            if worker is not self._worker:
                self._build(worker)
            try:
                found = self._play(worker, [np.asarray(inputs[name]) for name in self.inputs])
            except OSError as error:
                raise InputError(f"{self._name}: {worker.folder}: can't be written ({reason(error)})") from error
        return {name: found[self.outputs.index(name)] for name in (self.outputs if outputs is None else outputs)}

    def _build(self, worker: ToolWorker) -> None:
        request = {
            "do": "build",
            "key": str(self._folder),
            "folder": str(self._folder),
            "log": str(worker.folder / "log"),
        }
        try:
            worker.ask({**request, **_wanted(self._folder, self._part, self._name)}, _BUILD_SECONDS)
        except InputError as error:
            raise InputError(f"{self._name}: {error}") from error
        self._worker = worker

    def _play(self, worker: ToolWorker, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        place = worker.folder
        files = [place / f"in_{index}.npy" for index in range(len(inputs))]
        for file, values in zip(files, inputs, strict=True):
            np.save(file, values)
        request = {"do": "infer", "key": str(self._folder), "inputs": list(map(str, files)), "outputs": str(place)}
        try:
            reply = worker.ask(request | {"log": str(place / "log")}, min(time_limit(), _NO_LIMIT))
        except InputError as error:
            raise InputError(f"{self._name}: {error}") from error
        found = [np.load(place / str(file)) for file in reply["outputs"]]
        if [values.size for values in found] != [int(np.prod(shape)) for shape in self._shapes]:
            seen = ", ".join(str(list(values.shape)) for values in found)
            raise InputError(f"{self._name}: the simulator gives {seen}, and the part {self._shapes}")
        # a Reshape at the end may have been taken off
        return [values.reshape(shape) for values, shape in zip(found, self._shapes, strict=True)]


def _wanted(folder: Path, part: str, name: str) -> dict[str, Any]:
    """Return what is to be built, as build.json says it; it may come from anybody, and so names no file."""
    try:
        said = read_json(folder / "build.json", MB)
        config = {key: said["config"][key] for key in CONFIGURED if key in said["config"]}
        listed = read_bytes(folder / "dataset.txt", 16 * MB).decode() if said["quantize"] else ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{name}: {folder}: what was compiled can't be read ({reason(error)}); compile again"
        ) from error
    for file in listed.split():
        if not _SAMPLE.fullmatch(file):
            raise InputError(
                f"{name}: {folder / 'dataset.txt'}: names '{file[:80]}', and no file of input/; compile again"
            )
    return {"model": f"{part}.onnx", "config": config, "quantize": bool(listed), "dataset": "dataset.txt"}
