"""ONNX Runtime on RISC-V with a systolic array: its runner reads test data as ONNX's backend tests have them.

    PART/run.sh                             the command line, for an image
    PART/test_data_set_K/input_J.pb         an image as the part reads it, and what ONNX Runtime computes of it here
    PART/test_data_set_K/output_J.pb

    results                                 NAME.data for each output in test_data_set_K, its elements alone

The runner's calibration reads the same folders. A name is that of the output, with what no file name holds left out.

Source: onnxruntime-riscv 0c8c9b4, systolic_runner/quantization/calibrate.py and systolic_runner/rcnn_runner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from graphsurgery.compiling import Compiler, Job, Sample
from graphsurgery.compiling.compiler import Tensors
from graphsurgery.compiling.raw_files import read_raw
from graphsurgery.graph.names import clean_name
from graphsurgery.parts.manifest import Tensor


@dataclass(frozen=True)
class RiscvOrt(Compiler):
    """`accelerator` is the mode of the array, 0 for none; `optimisation` the level of ONNX Runtime's optimisations."""

    name = "riscv-ort"

    accelerator: Literal[0, 1, 2] = 0
    optimisation: Literal[0, 1, 2, 99] = 99

    def write(self, job: Job) -> None:
        options = f"-x {self.accelerator} -O {self.optimisation} -d 0"
        job.write_text(
            "run.sh",
            f'#!/bin/sh\n# run.sh IMAGE, where spike or a board is\nort_test -m {job.file} -i "$1" {options}\n',
        )

    def write_sample(self, job: Job, sample: Sample) -> None:
        place = job.folder / f"test_data_set_{sample.number}"
        place.mkdir()
        _write(place, "input", sample.inputs)
        _write(place, "output", sample.outputs)

    def read_outputs(
        self, folder: Path, number: int, stem: str, outputs: Mapping[str, Tensor]
    ) -> dict[str, npt.NDArray[Any]]:
        place = folder / f"test_data_set_{number}"
        return {name: read_raw(place / f"{clean_name(name)}.data", tensor, name) for name, tensor in outputs.items()}


def _write(place: Path, kind: str, tensors: Tensors) -> None:
    for index, (name, values) in enumerate(tensors.items()):
        content = numpy_helper.from_array(np.ascontiguousarray(values), name).SerializeToString()
        (place / f"{kind}_{index}.pb").write_bytes(content)
