"""NVIDIA's TensorRT: trtexec builds an engine of a part on the GPU that runs it, so only its command is written.

    PART/trtexec.sh           the command line, to be run where TensorRT and the GPU are
    PART/PART.engine          what it makes there; layers.json says in which type each layer is computed

Inputs may stay open: `dim_range` says from which sizes to which, and for which the engine is tuned. A part in integers
(`quantize`) carries its scales, and `int8` lets TensorRT use them: there is no calibration here.

Source: TensorRT 10.16, "trtexec Reference"; --workspace and --minTiming are gone since 10.0.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from graphsurgery.compiling import Compiler, Job, OpenShape
from graphsurgery.compiling.open_shapes import ranges_of
from graphsurgery.errors import InputError

Range = Mapping[Literal["min", "opt", "max"], tuple[int, ...]]


@dataclass(frozen=True)
class TensorRt(Compiler):
    """`precision` are the types beside float32 in which layers may be computed.

    `dim_range` has the smallest, the usual and the largest shape of each input that stays open; without `opt` the
    largest is the usual one. `workspace` is in MiB, `level` how long the builder looks, `strongly_typed` has it keep to
    the types of the graph, `timing_cache` a file that it keeps its measurements in.
    """

    name = "tensorrt"
    tool = "NVIDIA's TensorRT"

    precision: tuple[Literal["float16", "bfloat16", "int8"], ...] = ()
    dim_range: Mapping[str, Range] = field(default_factory=dict)
    workspace: int | None = None
    level: Literal[0, 1, 2, 3, 4, 5] = 3
    strongly_typed: bool = False
    timing_cache: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a range that is none, and types beside those of the graph where it keeps to these."""
        self.open_shapes()
        for name, sizes in self.dim_range.items():
            usual = sizes.get("opt")
            if usual is not None and not self.open_shapes()[name].holds(usual):
                raise ValueError(f"dim_range: '{name}' has opt {list(usual)}, which isn't between min and max")
        if self.strongly_typed and self.precision:
            raise ValueError("strongly_typed keeps to the types of the graph; leave precision out")
        if self.workspace is not None and self.workspace < 1:
            raise ValueError(f"workspace must be 1 or more MiB, not {self.workspace}")

    def open_shapes(self) -> Mapping[str, OpenShape]:
        """As Compiler. Raises ValueError for a range that is none."""
        return ranges_of(self.dim_range)

    def write(self, job: Job) -> None:
        line = " \\\n    ".join(shlex.quote(word) for word in self._words(job))
        job.write_text("trtexec.sh", f'#!/bin/sh\nset -e\ncd "$(dirname "$0")"\n{line}\n')

    def _words(self, job: Job) -> list[str]:
        types = {"float16": "--fp16", "bfloat16": "--bf16", "int8": "--int8"}
        return [
            "trtexec",
            f"--onnx={job.file}",
            f"--saveEngine={job.name}.engine",
            *(types[each] for each in self.precision),
            *(["--stronglyTyped"] if self.strongly_typed else []),
            *self._shapes(job),
            *([f"--memPoolSize=workspace:{self.workspace}"] if self.workspace is not None else []),
            f"--builderOptimizationLevel={self.level}",
            *([f"--timingCacheFile={self.timing_cache}"] if self.timing_cache is not None else []),
            "--profilingVerbosity=detailed",
            "--exportLayerInfo=layers.json",
            "--skipInference",
        ]

    def _shapes(self, job: Job) -> list[str]:
        for name in job.entry.inputs:
            if any(mark in name for mark in ":,"):
                raise InputError(
                    f"part '{job.name}': input '{name}' has a : or , in its name, which trtexec separates by; put "
                    "rename-tensors into the recipe"
                )
        there = {name: sizes for name, sizes in self.dim_range.items() if name in job.entry.inputs}
        for name in set(job.entry.inputs) - set(there):
            job.static_shape(name)
        found = []
        for flag, key in (("--minShapes", "min"), ("--optShapes", "opt"), ("--maxShapes", "max")):
            shapes = {name: sizes.get(key, sizes["max"]) for name, sizes in there.items()}  # type: ignore[call-overload]
            if shapes:
                each = (f"{name}:{'x'.join(map(str, sizes))}" for name, sizes in shapes.items())
                found.append(f"{flag}={','.join(each)}")
        return found
