"""ONNX Runtime on RISC-V with a systolic array: its runner takes a whole model, and an image.

    whole/whole.onnx                        all parts as one model: the runtime gives its array the layers
    whole/run.sh                            the command line, for one image after another
    whole/test_data_set_K/input_J.pb        an image as the model reads it, and what ONNX Runtime computes of it here
    whole/test_data_set_K/output_J.pb

    results                                 test_data_set_K/NAME.data, the elements of an output alone, as the runner
                                            writes them; or output_J.pb, as ONNX's own runners do

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

from graphsurgery.compiling import Compiler, Job, Sample
from graphsurgery.compiling.raw_files import read_raw
from graphsurgery.compiling.test_data_sets import place_of, read_tensor, write_test_data
from graphsurgery.errors import InputError
from graphsurgery.files import is_plain_name
from graphsurgery.graph.names import clean_name
from graphsurgery.parts.manifest import Tensor


@dataclass(frozen=True)
class RiscvOrt(Compiler):
    """`accelerator` is the mode of the array, 0 for none; `optimisation` the level of ONNX Runtime's optimisations.

    `files` are what the runner calls its results, in the order of the outputs, where it goes by other names than these.
    """

    name = "riscv-ort"
    takes_whole = True

    accelerator: Literal[0, 1, 2] = 0
    optimisation: Literal[0, 1, 2, 99] = 99
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for file in self.files:  # a folder of parts may come from anybody, and says what is read
            if not is_plain_name(f"{file}.data"):
                raise ValueError(f"files: '{file}' must be the name of a file, and no path")

    def write(self, job: Job) -> None:
        if self.files and len(self.files) != len(job.entry.outputs):
            listed = ", ".join(job.entry.outputs)
            raise InputError(f"compiler 'riscv-ort': files names {len(self.files)} results; the outputs are {listed}")
        options = f"-x {self.accelerator} -O {self.optimisation} -d 0"
        job.write_text("run.sh", _RUN.format(file=job.file, options=options))

    def write_sample(self, job: Job, sample: Sample) -> None:
        write_test_data(job.folder, sample.number, sample.inputs, sample.outputs)

    def read_outputs(
        self, folder: Path, number: int, stem: str, outputs: Mapping[str, Tensor]
    ) -> dict[str, npt.NDArray[Any]]:
        place = place_of(folder, number)
        called = self.files or tuple(map(clean_name, outputs))
        found = {}
        for index, (file, (name, tensor)) in enumerate(zip(called, outputs.items(), strict=True)):
            raw, proto = place / f"{file}.data", place / f"output_{index}.pb"
            if raw.exists() or not proto.exists():
                found[name] = read_raw(raw, tensor, name)
            else:
                found[name] = _read_proto(proto, tensor, name)
        return found


def _read_proto(path: Path, tensor: Tensor, name: str) -> npt.NDArray[Any]:
    called, values = read_tensor(path)
    sizes = tensor.shape if tensor.shape is not None else [None] * values.ndim
    fits = len(sizes) == values.ndim and all(
        size == found for size, found in zip(sizes, values.shape, strict=True) if isinstance(size, int)
    )
    if called not in ("", name) or values.dtype != np.dtype(tensor.dtype) or not fits:
        seen = f"{called or 'a tensor'}, {values.dtype} {list(values.shape)}"
        raise InputError(f"{path}: holds {seen}, and output '{name}' is {tensor.dtype} {tensor.shape}")
    return values


_RUN = """\
#!/bin/sh
# run.sh IMAGE ..., where spike or a board is, in the order in which the images were written. The runner writes its
# results where it is called, so each image has a folder of its own in `results`.
here=$(cd "$(dirname "$0")" && pwd)
number=0
for image in "$@"; do
  case $image in /*) ;; *) image=$PWD/$image ;; esac
  mkdir -p "$here/results/test_data_set_$number"
  (cd "$here/results/test_data_set_$number" && ort_test -m "$here/{file}" -i "$image" {options}) || exit
  number=$((number + 1))
done
"""
