"""Small models through RKNN-Toolkit2 and its simulator: a tenth of a second each, in one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from graphsurgery.compilers._rknn_table import Layer, layers_in
from graphsurgery.compiling.trials import Played, Trials
from graphsurgery.errors import InputError
from graphsurgery.processes.worker import Running
from graphsurgery.toolchains import ToolWorker, require
from graphsurgery.toolchains.tool_worker import WORKERS
from graphsurgery.toolchains.toolchain import find_toolchain

_NAME = "rknn"
_SECONDS = 60.0
_MEMORY_MB = 6000


class RknnTrials(Trials):
    """Builds a model as the compiler does, without a file, and plays it in the process that has built it."""

    precisions = frozenset({"int8", "float16"})
    newest_opset = 19  # rknn-toolkit2 2.5.0: "need <= 19"

    def __init__(self, compiler: Any) -> None:
        self._compiler = compiler
        self._running = Running(lambda: ToolWorker(require(_NAME, "probe"), WORKERS / "rknn_worker.py", "RKNN"))

    def tool(self) -> tuple[str, str, str]:
        require(_NAME, "probe")
        found = find_toolchain(_NAME)
        return found.package, found.version, str(self._compiler.target_platform)

    def play(self, model: ModelProto, feeds: Mapping[str, npt.NDArray[Any]], precision: str, node: str) -> Played:
        with self._running.use() as worker:
            place = worker.folder
            (place / "model.onnx").write_bytes(model.SerializeToString())
            (place / "out").mkdir(exist_ok=True)
            log = place / "log.txt"
            log.unlink(missing_ok=True)
            files = []
            for name, value in feeds.items():
                np.save(place / f"{name}.npy", value)
                files.append(str(place / f"{name}.npy"))
            job = {
                "folder": str(place),
                "model": "model.onnx",
                "config": {"target_platform": self._compiler.target_platform},
                "quantize": precision == "int8",
                "samples": [files],
                "inputs": files,
                "outputs": str(place / "out"),
                "log": str(log),
            }
            try:
                (result,) = worker.ask({"do": "many", "jobs": [job]}, _SECONDS, _MEMORY_MB)["results"]
            except InputError as error:
                worker.stop()
                return Played(error=str(error).removeprefix("RKNN ").removesuffix("; "), crashed=True)
            text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
            where = _is_on_npu(layers_in(text), node)
            if "error" in result:
                return Played(where, error=str(result["error"]))
            names = [info.name for info in model.graph.output]
            found = [np.load(place / "out" / str(file)) for file in result["outputs"]]
        return Played(where, dict(zip(names, found, strict=False)))

    def close(self) -> None:
        self._running.shutdown()


def _is_on_npu(layers: list[Layer] | None, node: str) -> bool | None:
    """Whether the layers of a node are on the NPU: those of its name, or all where it was written as others."""
    if not layers:
        return None
    own = [layer for layer in layers if layer.name.partition("#")[0] == node]
    return all(layer.on_npu for layer in own or layers)
