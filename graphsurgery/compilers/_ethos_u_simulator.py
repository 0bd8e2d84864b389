"""What stands for a simulator of Arm's Ethos-U: TensorFlow's kernels, in a process of the toolchain, play PART.tflite.

That is the part in integers before Vela, which has no simulator of what it makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphsurgery.compiling.simulated import ask_for, compiled_part
from graphsurgery.devices.provider import Option, Provider
from graphsurgery.devices.simulators import Simulator
from graphsurgery.devices.time_limit import time_limit
from graphsurgery.errors import InputError
from graphsurgery.files import reason
from graphsurgery.graph.light import read_light
from graphsurgery.graph.protos import required_inputs
from graphsurgery.processes.worker import Running
from graphsurgery.toolchains import ToolWorker, require
from graphsurgery.toolchains.tool_worker import WORKERS

_NAME, _TOOLCHAIN = "ethos-u", "vela"
_OPEN_SECONDS = 600.0
_NO_LIMIT = 1e9

running = Running(
    lambda: ToolWorker(require(_TOOLCHAIN, f"device {_NAME}"), WORKERS / "vela_worker.py", "TensorFlow's kernels")
)


class EthosUSimulator(Simulator):
    """Plays a part in the integers that Vela is given."""

    provider = Provider(
        "TensorFlow's kernels",
        "python -m graphsurgery toolchain install vela",
        (Option("accelerator", "the NPU that the parts must have been compiled for, such as ethos-u55-256"),),
        ("it plays the TFLite file that `compile --with ethos-u` made, before Vela",),
        target="ethos-u55",
    )

    @classmethod
    def require(cls, place: str) -> None:
        require(_TOOLCHAIN, place)

    @classmethod
    def open(cls, part: Path, options: Mapping[str, str], name: str, *, allow_fallback: bool) -> _Simulated:
        made = compiled_part(part, _NAME, name)
        ask_for(made, {"accelerator": options.get("accelerator")}, name)
        report = made.compiled.reports.get(part.stem)
        if report is not None and report.left and not allow_fallback:
            first, total = report.left[0], report.accelerated + len(report.left)
            raise InputError(
                f"{name}: Vela leaves {len(report.left)} of {total} operators to the CPU, {first.operator} "
                f"'{first.name}' first; see what helps: python -m graphsurgery support {part} --target ethos-u55"
            )
        return _Simulated(made.folder.absolute(), part, name)


class _Simulated:
    """One part in the interpreter."""

    def __init__(self, folder: Path, part: Path, name: str) -> None:
        self._folder, self._part, self._name = folder, part.stem, name
        self._worker: ToolWorker | None = None
        graph = read_light(part).graph
        self.inputs = [info.name for info in required_inputs(graph)]
        self.outputs = [info.name for info in graph.output]
        with running.use() as worker:
            self._ready(worker)

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """As `Plays`. Where the process was ended meanwhile, another opens the part once more."""
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise InputError(f"{self._name}: input '{missing[0]}' is not given")
        with running.use() as worker:
            if worker is not self._worker:
                self._ready(worker)
            files = [worker.folder / f"in_{index}.npy" for index in range(len(self.inputs))]
            try:
                for file, name in zip(files, self.inputs, strict=True):
                    np.save(file, np.asarray(inputs[name]))
                place = str(worker.folder)
                reply = self._ask(worker, {"do": "infer", "inputs": list(map(str, files)), "outputs": place})
                found = [np.load(worker.folder / str(file)) for file in reply["outputs"]]
            except OSError as error:
                raise InputError(f"{self._name}: {worker.folder}: can't be written ({reason(error)})") from error
        return {name: found[self.outputs.index(name)] for name in (self.outputs if outputs is None else outputs)}

    def _ready(self, worker: ToolWorker) -> None:
        self._ask(worker, {"do": "open", "folder": str(self._folder), "name": self._part}, _OPEN_SECONDS)
        self._worker = worker

    def _ask(self, worker: ToolWorker, request: Mapping[str, Any], seconds: float | None = None) -> dict[str, Any]:
        given = {**request, "key": str(self._folder), "log": str(worker.folder / "log")}
        try:
            return worker.ask(given, min(time_limit(), _NO_LIMIT) if seconds is None else seconds)
        except InputError as error:
            raise InputError(f"{self._name}: {error}") from error
