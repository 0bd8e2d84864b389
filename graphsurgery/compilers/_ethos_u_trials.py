"""Small models through onnx2tf, Vela and TensorFlow's kernels: a second each, in one process.

The numbers are those of the TFLite file before Vela, the placement is Vela's. onnx2tf tells axes apart by their sizes:
of a model whose channels, height and width are equal it makes one that computes something else.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from graphsurgery.compiling.feeds import CALIBRATION, FIRST
from graphsurgery.compiling.trials import Played, Trials
from graphsurgery.devices.session import Session
from graphsurgery.errors import InputError
from graphsurgery.processes.worker import Running
from graphsurgery.toolchains import ToolWorker, require
from graphsurgery.toolchains.tool_worker import WORKERS
from graphsurgery.toolchains.toolchain import find_toolchain

_TOOLCHAIN, _NAME = "vela", "onnx2tf and Vela"
_SECONDS = 60.0
_MEMORY_MB = 6000
# a target's word for what its compiler's `precision` says
_PRECISIONS = {"int8": "int8", "int16": "int16x8"}
_HALF = "onnx2tf makes inputs of float32 of those in float16"
_WARNING = re.compile(r"Warning \(supported operators\) operator: (\w+),.*\n *Reason: (.+)")


class EthosUTrials(Trials):
    """Compiles a model as the compiler does, calibrated with what it is played on."""

    precisions = frozenset(_PRECISIONS)
    unequal_sizes = True

    def __init__(self, compiler: Any) -> None:
        self._compiler = compiler
        self._running = Running(lambda: ToolWorker(require(_TOOLCHAIN, "probe"), WORKERS / "vela_trials.py", _NAME))

    def tool(self) -> tuple[str, str, str]:
        require(_TOOLCHAIN, "probe")
        found = find_toolchain(_TOOLCHAIN)
        return found.package, found.version, f"onnx2tf {found.pins['onnx2tf']}, {self._compiler.accelerator}"

    def play(self, model: ModelProto, feeds: Mapping[str, npt.NDArray[Any]], precision: str, node: str) -> Played:
        if not feeds:
            return Played(reason="it reads nothing that could be calibrated with")
        if any(value.dtype == np.float16 for value in feeds.values()):
            return Played(reason=_HALF)
        expected = Session(model).run(dict(feeds))
        with self._running.use() as worker:
            place = _written(worker.folder / "case", model, feeds, expected)
            log = place / "log.txt"
            config = self._compiler.config
            request = {
                "do": "try",
                "folder": str(place),
                "inputs": list(feeds),
                "outputs": list(expected),
                "precision": _PRECISIONS[precision],
                "vela": self._compiler.vela_options(None if config is None else str(config.resolve())),
                "log": str(log),
            }
            try:
                reply = worker.ask(request, _SECONDS, _MEMORY_MB)
            except InputError as error:
                said = str(error).removeprefix(_NAME).removeprefix(":").strip()
                if not worker.busy:
                    return Played(error=said)
                worker.stop()
                return Played(error=said.removesuffix("; "), crashed=True)
            found = [np.load(place / str(file)) for file in reply["outputs"]]
            text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        outputs = dict(zip(expected, found, strict=True))
        if not reply["operators"]:
            return Played(None, outputs, reason="onnx2tf leaves no operator of it")
        return Played(not reply["left"], outputs, reason=_why(reply["left"], text))

    def close(self) -> None:
        self._running.shutdown()


def _written(
    place: Path,
    model: ModelProto,
    feeds: Mapping[str, npt.NDArray[Any]],
    expected: Mapping[str, npt.NDArray[Any]],
) -> Path:
    """Write what `vela_compile` reads of a part, for one run: what ONNX Runtime computes tells the order of axes."""
    shutil.rmtree(place, ignore_errors=True)
    for folder in (CALIBRATION, FIRST):
        (place / folder).mkdir(parents=True)
    (place / "model.onnx").write_bytes(model.SerializeToString())
    for index, value in enumerate(feeds.values()):
        np.save(place / CALIBRATION / f"{index}.npy", value[None])
    for index, value in enumerate(expected.values()):
        np.save(place / FIRST / f"{index}.npy", value)
    return place


def _why(left: Sequence[str], log: str) -> str | None:
    """Return which TFLite operators are left to the CPU, with what Vela says of each; None where none is."""
    reasons = dict(_WARNING.findall(log))
    told = (f"{each}: {reasons[each].strip()}" if each in reasons else each for each in dict.fromkeys(left))
    return "; ".join(told) or None
