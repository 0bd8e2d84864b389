"""What stands for a simulator of Arm's Ethos-U: TensorFlow's kernels, in a process of the toolchain, play PART.tflite.

That is the part in integers before Vela, which has no simulator of what it makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graphsurgery.compiling.simulated import SimulatedPart, ask_for, compiled_part, refuse_left
from graphsurgery.devices.provider import Option, Provider
from graphsurgery.devices.simulators import Simulator
from graphsurgery.processes.worker import Running
from graphsurgery.toolchains import ToolWorker, require
from graphsurgery.toolchains.tool_worker import WORKERS

_NAME, _TOOLCHAIN, _TARGET = "ethos-u", "vela", "ethos-u55"

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
        target=_TARGET,
    )

    @classmethod
    def require(cls, place: str) -> None:
        require(_TOOLCHAIN, place)

    @classmethod
    def open(cls, part: Path, options: Mapping[str, str], name: str, *, allow_fallback: bool) -> SimulatedPart:
        made = compiled_part(part, _NAME, name)
        ask_for(made, {"accelerator": options.get("accelerator")}, name)
        if not allow_fallback:
            refuse_left(made, part, name, _TARGET)
        return SimulatedPart(running, part, made.folder, name, {"name": part.stem})
