"""AMD's Ryzen AI: ONNX Runtime's VitisAI provider compiles a part when a session is made, so that is what is written.

    PART/options.json         the options of the provider: its compiler, and where the compiled part is kept
    PART/config.json          for bf16: what its compiler VAIML wants to be told
    PART/session.py           makes the session, with no node on the CPU, on the machine with the NPU
    PART/cache/               what it compiles there
    PART/calibration/J.npy    with --inputs or --images: what the part reads, run by run

Parts in integers come from `quantize`, by Quark or vai_q_onnx, in a variant; bf16 is computed of a float32 part. What
would end the process there is refused here (`graphsurgery.devices.vitisai`).

Source: AMD's Ryzen AI 1.8, "Model Compilation and Deployment"; its Vitis AI pages for optimize_level.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from graphsurgery.compiling import Compiler, Job, Runs
from graphsurgery.devices.providers import DeviceChoice
from graphsurgery.devices.providers import require as require_provider
from graphsurgery.devices.vitisai import refuse_what_aborts
from graphsurgery.errors import InputError
from graphsurgery.graph.names import clean_name
from graphsurgery.graph.protos import walk_protos

_SCRIPT = "session.py"
_QUANTIZED = ("QuantizeLinear", "ExtendedQuantizeLinear")


@dataclass(frozen=True)
class RyzenAi(Compiler):
    """`precision` is that of the parts: of Quark's configurations, or bf16.

    `compiler` is X1, for Phoenix to Krackan, or X2, from Strix on; none leaves it to the provider. `xclbin` is the path
    of the NPU's configuration on that machine, where its version wants one. `optimize_level` is VAIML's, for bf16. So
    many `samples` at most, runs of a part, are compared.
    """

    name = "ryzen-ai"
    tool = "AMD's Ryzen AI"
    reports = True

    precision: Literal["xint8", "a8w8", "a16w8", "bf16"] = "xint8"
    compiler: Literal["X1", "X2"] | None = None
    xclbin: str | None = None
    optimize_level: Literal[1, 2, 3] = 1
    samples: int = 16

    def __post_init__(self) -> None:
        """Raise ValueError for options that say nothing of bf16."""
        if self.samples < 1:
            raise ValueError(f"samples must be 1 or more, not {self.samples}")
        if self.precision == "bf16" and (self.compiler or self.xclbin):
            raise ValueError("precision bf16 is compiled by VAIML; leave compiler and xclbin out")

    def runs(self) -> Runs:
        return Runs(self.samples)

    def write(self, job: Job) -> None:
        refuse_what_aborts(job.model, f"part '{job.name}'")
        for name in (*job.entry.inputs, *job.entry.outputs):
            job.static_shape(name)
        self._require_precision(job)
        # the provider takes what lies in the cache for this part's without a look
        options = {"cache_dir": "cache", "cache_key": f"{clean_name(job.name)}_{job.model.fingerprint[:16]}"}
        if self.precision == "bf16":
            job.write_text("config.json", json.dumps(self._config(), indent=1) + "\n")
            options |= {"config_file": "config.json"}
        options |= {"target": self.compiler} if self.compiler is not None else {}
        options |= {"xclbin": self.xclbin} if self.xclbin is not None else {}
        job.write_text("options.json", json.dumps(options, indent=1) + "\n")
        nodes = sum(node.op_type != "Constant" for node in job.model.proto.graph.node)
        job.write_text(_SCRIPT, _SESSION.format(part=job.name, nodes=nodes))

    def _require_precision(self, job: Job) -> None:
        quantized = any(node.op_type in _QUANTIZED for node in walk_protos(job.model.proto.graph))
        if quantized and self.precision == "bf16":
            raise InputError(f"part '{job.name}': it is in integers, and bf16 is computed of a float32 part")
        if not quantized and self.precision != "bf16":
            config = self.precision.upper()
            raise InputError(
                f"part '{job.name}': it is float; compile a variant that {{quantize: {{backend: quark, config: "
                f"{config}}}}} wrote, or say precision=bf16"
            )

    def _config(self) -> dict[str, Any]:
        partition = {"name": "vaiml_partition", "plugin": "vaip-pass_vaiml_partition"}
        return {
            "passes": [
                {"name": "init", "plugin": "vaip-pass_init"},
                {**partition, "vaiml_config": {"optimize_level": self.optimize_level}},
            ],
            "target": "VAIML",
            "targets": [{"name": "VAIML", "pass": ["init", "vaiml_partition"]}],
        }

    def require_tool(self, job: Job) -> None:
        require_provider(DeviceChoice("vitisai"), f"compiler '{self.name}'")

    def command(self, job: Job) -> Sequence[str]:
        return [sys.executable, _SCRIPT]


_SESSION = '''\
"""Compiles {part}.onnx for AMD's NPU by making a session of it, and runs it on what was captured.

It needs nothing of graphsurgery: ONNX Runtime with AMD's VitisAI provider, numpy. With --allow-fallback nodes may stay
on the CPU.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort


os.chdir(Path(__file__).resolve().parent)
options = json.loads(Path("options.json").read_text(encoding="utf-8"))
for name in ("cache_dir", "config_file"):
    if name in options:
        options[name] = str(Path(options[name]).resolve())
settings = ort.SessionOptions()
if "--allow-fallback" not in sys.argv:
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
session = ort.InferenceSession(
    "{part}.onnx", settings, providers=["VitisAIExecutionProvider"], provider_options=[options], enable_fallback=0
)
print("session made; compiled into", options["cache_dir"])
if Path("calibration").is_dir():
    shutil.rmtree("computed", ignore_errors=True)
    Path("computed").mkdir()
    inputs = [each.name for each in session.get_inputs()]
    runs = [np.load(f"calibration/{{index}}.npy", mmap_mode="r") for index in range(len(inputs))]
    found = [session.run(None, dict(zip(inputs, each, strict=True))) for each in zip(*runs, strict=True)]
    for index, values in enumerate(zip(*found, strict=True)):
        np.save(f"computed/{{index}}.npy", np.stack(values))
report = {{"accelerated": {nodes}, "left": [], "figures": {{"provider": "VitisAIExecutionProvider"}}}}
Path("report.json").write_text(json.dumps(report, indent=1) + "\\n", encoding="utf-8")
'''
