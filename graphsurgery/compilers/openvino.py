"""Intel's OpenVINO: its own compiler, for CPUs, and for GPUs and NPUs where there is one.

    PART/compile.py           converts and compiles it: python -m graphsurgery toolchain install openvino
    PART/job.json             what it is to do
    PART/PART.xml, PART.bin   the part for OpenVINO, on any device
    PART/calibration/J.npy    with --inputs or --images: what the part reads, run by run

What the device computes of these is compared with ONNX Runtime. A part that `quantize` wrote stays in integers: the
figures say which layers the device computes in which type.

Source: OpenVINO 2026.4, the Python API of ov.Core; properties of the devices.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from graphsurgery.compiling import Compiler, Job, Runs
from graphsurgery.toolchains import require
from graphsurgery.toolchains.tool_worker import WORKERS

_TOOLCHAIN = "openvino"
_SCRIPT = "compile.py"
_HINTS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class OpenVino(Compiler):
    """`device` is CPU, GPU or NPU, `precision` that in which it computes what is float; float16 is stored so, too.

    So many `samples` at most, runs of a part, are compared.
    """

    name = "openvino"
    tool = "Intel's OpenVINO"
    reports = True

    device: Literal["CPU", "GPU", "NPU"] = "CPU"
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    samples: int = 64

    def __post_init__(self) -> None:
        """Raise ValueError for a number of samples that is none, and a type that a CPU doesn't compute in."""
        if self.samples < 1:
            raise ValueError(f"samples must be 1 or more, not {self.samples}")

    def runs(self) -> Runs:
        return Runs(self.samples)

    def write(self, job: Job) -> None:
        if self.device == "NPU":
            for name in (*job.entry.inputs, *job.entry.outputs):
                job.static_shape(name)
        what = {
            "file": job.file,
            "name": job.name,
            "inputs": list(job.entry.inputs),
            "outputs": len(job.entry.outputs),
            "device": self.device,
            "compress": self.precision == "float16",
            "properties": {"INFERENCE_PRECISION_HINT": _HINTS[self.precision]},
        }
        job.write_text("job.json", json.dumps(what, indent=1) + "\n")
        job.write_text(_SCRIPT, (WORKERS / "openvino_compile.py").read_text(encoding="utf-8"))

    def command(self, job: Job) -> Sequence[str]:
        return [str(require(_TOOLCHAIN, f"compiler '{self.name}'")), "-I", _SCRIPT]
