"""Arm's Ethos-U: onnx2tf makes a TFLite file in integers of a part, and Vela compiles that for the NPU.

    PART/compile.py           runs both, where they are installed: python -m graphsurgery toolchain install vela
    PART/job.json             what it is to do
    PART/calibration/J.npy    what the part reads, run by run: its ranges become the scales of the integers
    PART/PART.tflite          the part in integers, NHWC, before Vela
    PART/PART_vela.tflite     for the device: what is left to the Cortex-M stands beside the operator `ethos-u`
    PART/PART_summary.csv     Vela's estimate: cycles, SRAM, flash
    PART/tensors.json         type, scale, zero point and order of axes of each input and output

There is no simulator in it, so what is compared with ONNX Runtime, and what `--device npu=ethos-u` plays, is what
TensorFlow's kernels compute of PART.tflite.

Source: ethos-u-vela 5.2.0 (ethosu/vela/vela.py, stats_writer.py), onnx2tf 1.29.24.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graphsurgery import files
from graphsurgery.compilers._ethos_u_simulator import EthosUSimulator
from graphsurgery.compilers._ethos_u_trials import EthosUTrials
from graphsurgery.compiling import Compiler, Job, Runs
from graphsurgery.errors import InputError
from graphsurgery.files import reason
from graphsurgery.graph.names import clean_name, fresh, tensor_names
from graphsurgery.graph.renaming import rename_tensors
from graphsurgery.toolchains import require
from graphsurgery.toolchains.tool_worker import WORKERS

_TOOLCHAIN = "vela"
_SCRIPT = "compile.py"
_LARGEST_CONFIG = files.MB


@dataclass(frozen=True)
class EthosU(Compiler):
    """`accelerator` is the NPU with its multipliers, `precision` that of activations, weights are int8 in both.

    `config` is a file of Vela's for the chip, an .ini, in which `system_config` and `memory_mode` name sections;
    without it they are sections of Vela's own, or its defaults. `optimise` is for speed or for SRAM, `arena` how many
    bytes of that to aim at. So many `samples` at most, runs of a part, are calibrated with.
    """

    name = "ethos-u"
    tool = "Arm's Vela"
    reports = True
    simulator = EthosUSimulator
    trials = EthosUTrials

    accelerator: Literal[
        "ethos-u55-32",
        "ethos-u55-64",
        "ethos-u55-128",
        "ethos-u55-256",
        "ethos-u65-256",
        "ethos-u65-512",
        "ethos-u85-128",
        "ethos-u85-256",
        "ethos-u85-512",
        "ethos-u85-1024",
        "ethos-u85-2048",
    ] = "ethos-u55-256"
    precision: Literal["int8", "int16x8"] = "int8"
    system_config: str | None = None
    memory_mode: str | None = None
    config: Path | None = None
    optimise: Literal["Performance", "Size"] = "Performance"
    arena: int | None = None
    samples: int = 256

    def __post_init__(self) -> None:
        """Raise ValueError for numbers that are none, and a section that no file holds."""
        if self.samples < 1:
            raise ValueError(f"samples must be 1 or more, not {self.samples}")
        if self.arena is not None and self.arena < 1:
            raise ValueError(f"arena must be 1 or more bytes, not {self.arena}")
        for option in ("system_config", "memory_mode"):
            section = getattr(self, option)
            if section is not None and not section.isidentifier():
                raise ValueError(f"{option} is '{section}'; it is a section of Vela's file, such as Shared_Sram")

    def runs(self) -> Runs:
        return Runs(self.samples, "integers need the ranges of what the parts read")

    def write(self, job: Job) -> None:
        for name, tensor in (job.entry.inputs | job.entry.outputs).items():
            job.static_shape(name)
            if tensor.dtype != "float32":
                raise InputError(f"part '{job.name}': '{name}' is {tensor.dtype}; onnx2tf makes integers of float32")
        inputs = self._rename(job)
        what = {
            "file": job.file,
            "name": job.name,
            "inputs": inputs,
            "outputs": list(job.entry.outputs),
            "precision": self.precision,
            "vela": self._options(job),
        }
        job.write_text("job.json", json.dumps(what, indent=1) + "\n")
        job.write_text(_SCRIPT, (WORKERS / "vela_compile.py").read_text(encoding="utf-8"))

    def _rename(self, job: Job) -> list[str]:
        """Write the part with names that TensorFlow takes, and return those of its inputs."""
        taken: set[str] = set()
        names = {}
        for name in sorted(tensor_names(job.model.proto) - {""}):
            names[name] = fresh(clean_name(name), taken)
            taken.add(names[name])
        renamed = rename_tensors(job.model, {old: new for old, new in names.items() if old != new})
        nodes: set[str] = set()
        for node in renamed.proto.graph.node if renamed is not job.model else ():
            node.name = fresh(clean_name(node.name), nodes)
            nodes.add(node.name)
        renamed.save(job.folder / job.file)
        return [names[name] for name in job.entry.inputs]

    def _options(self, job: Job) -> list[str]:
        if self.config is None:
            return self.vela_options(None)
        try:
            text = files.read_bytes(self.config, _LARGEST_CONFIG).decode()
        except (OSError, ValueError) as error:
            raise InputError(f"{self.config}: can't be read ({reason(error)}); give an .ini of Vela's") from error
        job.write_text("vela.ini", text)
        return self.vela_options("vela.ini")

    def vela_options(self, config: str | None) -> list[str]:
        """Return what Vela's command line is given; `config` is where the file of the chip lies for it."""
        # without --show-cpu-operations: that table ends Vela with a KeyError over some operators which stay on the CPU
        given = ["--accelerator-config", self.accelerator, "--optimise", self.optimise]
        for option, value in (
            ("--config", config),
            ("--system-config", self.system_config),
            ("--memory-mode", self.memory_mode),
            ("--arena-cache-size", self.arena),
        ):
            given += [option, str(value)] if value is not None else []
        return given

    def command(self, job: Job) -> Sequence[str]:
        return [str(require(_TOOLCHAIN, f"compiler '{self.name}'")), "-I", _SCRIPT]
