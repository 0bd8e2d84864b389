"""Rockchip's RKNN: the toolkit takes an ONNX file and a list of samples, quantizes it and writes a .rknn file.

    PART/build.json           what is built: the arguments of the toolkit, and the names of files
    PART/build.py             builds it, where rknn-toolkit2 can be imported, and plays the runs in its simulator
    PART/calibration/J.npy    what the part reads, run by run, which ranges of int8 are taken from
    PART/PART.rknn            what came of it, and rknn.log, in which the toolkit says where each layer runs

    results                   STEM_0.bin, STEM_1.bin, ... in the order of the part's outputs

A part in floats is what it wants: it chooses where to quantize by what its NPU fuses, with a scale for each channel.
The parts take floats already, so no mean is subtracted. A Reshape at an end of a part moves no element; by
`remove_reshape` the file is without it, and its tensor has four dimensions there.

The toolkit runs in an environment of its own: python -m graphsurgery toolchain install rknn.

Source: rknn-toolkit2 2.5.0, signatures and messages of rknn.api; what it makes of Reshape was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from graphsurgery.compilers._rknn_simulator import RknnSimulator
from graphsurgery.compilers._rknn_table import layers_in
from graphsurgery.compilers._rknn_trials import RknnTrials
from graphsurgery.compiling import Compiler, Job, Runs
from graphsurgery.compiling.raw_files import read_numbered
from graphsurgery.compiling.report import Left, Report
from graphsurgery.errors import InputError
from graphsurgery.parts.manifest import Tensor
from graphsurgery.toolchains import require
from graphsurgery.toolchains.tool_worker import WORKERS

Platform = Literal[
    "rk3588", "rk3576", "rk3566", "rk3568", "rk3562", "rv1103", "rv1103b", "rv1106", "rv1106b", "rv1126b", "rk2118"
]
_SCRIPT = "rknn_build.py"


@dataclass(frozen=True)
class Rknn(Compiler):
    """`target_platform` is the chip. `precision` int8 takes its ranges from `samples` runs of a part at most.

    `quantized_algorithm` says how ranges are chosen, `quantized_method` whether a weight has a scale or each of its
    channels. `op_target` forces a layer, by the name of its output, onto npu, cpu or gpu.
    """

    name = "rknn"
    tool = "Rockchip's RKNN-Toolkit2"
    reports = True
    simulator = RknnSimulator
    trials = RknnTrials

    target_platform: Platform = "rk3588"
    precision: Literal["int8", "float16"] = "int8"
    quantized_algorithm: Literal["normal", "mmse", "kl_divergence", "gdq"] = "normal"
    quantized_method: Literal["channel", "layer"] = "channel"
    optimization_level: Literal[0, 1, 2, 3] = 3
    remove_reshape: bool = True
    op_target: Mapping[str, Literal["npu", "cpu", "gpu"]] = field(default_factory=dict)
    samples: int = 32

    def __post_init__(self) -> None:
        """Raise ValueError for a number of samples that is none."""
        if self.samples < 1:
            raise ValueError(f"samples must be 1 or more, not {self.samples}")

    def runs(self) -> Runs:
        return Runs(self.samples, "int8 takes its ranges from what the parts read" if self.precision == "int8" else "")

    def config(self) -> dict[str, Any]:
        """Return the arguments of RKNN.config."""
        return {
            "target_platform": self.target_platform,
            "quantized_algorithm": self.quantized_algorithm,
            "quantized_method": self.quantized_method,
            "optimization_level": self.optimization_level,
            "remove_reshape": self.remove_reshape,
            **({"op_target": dict(self.op_target)} if self.op_target else {}),
        }

    def write(self, job: Job) -> None:
        for name in (*job.entry.inputs, *job.entry.outputs):
            job.static_shape(name)
        job.write_text("build.py", (WORKERS / _SCRIPT).read_text(encoding="utf-8"))
        files = {"model": job.file, "rknn": f"{job.name}.rknn"}
        wanted = {**files, "config": self.config(), "quantize": self.precision == "int8"}
        job.write_text("build.json", json.dumps(wanted, indent=1) + "\n")

    def command(self, job: Job) -> list[str]:
        return [str(require("rknn", f"compiler '{self.name}'")), "build.py", f"{self.name}.log"]

    def require_tool(self, job: Job) -> None:
        require("rknn", f"compiler '{self.name}'")

    def report(self, job: Job) -> Report:
        log = (job.folder / f"{self.name}.log").read_text(encoding="utf-8", errors="replace")
        layers = layers_in(log)
        if layers is None:
            raise InputError(
                f"compiler '{self.name}': part '{job.name}': its log has no table of layers that is known; "
                "another version of the toolkit may write another"
            )
        left = [Left(operator=each.operator, name=each.name) for each in layers if not each.on_npu]
        return Report(accelerated=len(layers) - len(left), left=left)

    def read_outputs(
        self, folder: Path, number: int, stem: str, outputs: Mapping[str, Tensor]
    ) -> dict[str, npt.NDArray[Any]]:
        return read_numbered(folder, stem, outputs)
