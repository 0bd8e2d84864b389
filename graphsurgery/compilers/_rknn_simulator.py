"""The simulator of RKNN-Toolkit2, in a process of its own: it plays what was built in that process, and no .rknn file.

So what lies in compiled/rknn is built once more there, from the same file, options and samples, when a session opens
(seconds). One process has the models of all sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphsurgery.compiling.simulated import SimulatedPart, ask_for, compiled_part, refuse_left
from graphsurgery.devices.provider import Option, Provider
from graphsurgery.devices.simulators import Simulator
from graphsurgery.errors import InputError
from graphsurgery.files import MB, read_json, reason
from graphsurgery.processes.worker import Running
from graphsurgery.toolchains import ToolWorker, require
from graphsurgery.toolchains.tool_worker import WORKERS

_NAME, _TARGET = "rknn", "rk3588"
# the arguments of RKNN.config that a compiler sets
CONFIGURED = (
    *("target_platform", "quantized_algorithm", "quantized_method", "optimization_level", "remove_reshape"),
    "op_target",
)

running = Running(lambda: ToolWorker(require(_NAME, f"device {_NAME}"), WORKERS / "rknn_worker.py", "RKNN's simulator"))


class RknnSimulator(Simulator):
    """Plays a part on the CPU as Rockchip's NPU would, by the toolkit's word."""

    provider = Provider(
        "RKNN's simulator",
        "python -m graphsurgery toolchain install rknn",
        (Option("platform", "the chip that the parts must have been compiled for, such as rk3588"),),
        ("it plays what `compile --with rknn` made, on x86-64 Linux",),
        target=_TARGET,
    )

    @classmethod
    def require(cls, place: str) -> None:
        require(_NAME, place)

    @classmethod
    def open(cls, part: Path, options: Mapping[str, str], name: str, *, allow_fallback: bool) -> SimulatedPart:
        made = compiled_part(part, _NAME, name)
        ask_for(made, {"target_platform": options.get("platform")}, name)
        if not allow_fallback:
            refuse_left(made, part, name, _TARGET)
        return SimulatedPart(running, part, made.folder, name, wanted(made.folder, part.stem, name))


def wanted(folder: Path, part: str, name: str) -> dict[str, Any]:
    """Return what is to be built, as build.json says it; it may come from anybody, and so names no file."""
    try:
        said = read_json(folder / "build.json", MB)
        config = {key: said["config"][key] for key in CONFIGURED if key in said["config"]}
        return {"model": f"{part}.onnx", "config": config, "quantize": bool(said["quantize"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{name}: {folder}: can't be read ({reason(error)}); compile the part again") from error
