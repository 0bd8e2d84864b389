"""What a compiler is: the files that a vendor's tool wants of a part, how the tool is run, and how results are read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from graphsurgery.compiling.open_shapes import OpenShape
from graphsurgery.compiling.report import Report, read_report
from graphsurgery.compiling.trials import Trials
from graphsurgery.devices.simulators import Simulator
from graphsurgery.errors import InputError, MissingTool
from graphsurgery.graph.model import Model
from graphsurgery.images.canvas import Canvas
from graphsurgery.parts.manifest import PartEntry, Tensor
from graphsurgery.processes.ending import last_line, run_to_end

Tensors = Mapping[str, npt.NDArray[Any]]

_SECONDS = 7200.0
NOT_HERE = 3  # a script that reports ends so where the device that it was asked for isn't here


@dataclass(frozen=True)
class Job:
    """One part to be compiled, and the folder that everything about it goes into, so that it can be taken elsewhere.

    `model` is the part, each of its nodes with a name; a copy of it lies in `folder` as `file`. `canvas` says what its
    image is, where `image` names the input that takes one.
    """

    entry: PartEntry
    model: Model
    canvas: Canvas
    image: str | None
    folder: Path

    @property
    def name(self) -> str:
        """The part's name."""
        return self.entry.name

    @property
    def file(self) -> str:
        """The name of the part's file in `folder`."""
        return f"{self.entry.name}.onnx"

    def write_text(self, name: str, text: str) -> None:
        """Write a text file into `folder`, with the line ends that a Linux tool wants."""
        (self.folder / name).write_text(text, encoding="utf-8", newline="\n")

    @property
    def is_static(self) -> bool:
        """Whether all sizes of its inputs and outputs are numbers, so that runs of it can lie in one array."""
        shapes = (tensor.shape for tensor in (self.entry.inputs | self.entry.outputs).values())
        return all(shape is not None and all(isinstance(size, int) for size in shape) for shape in shapes)

    def static_shape(self, name: str) -> list[int]:
        """Return the shape of an input or output. Raises InputError where a dimension is open."""
        shape = (self.entry.inputs | self.entry.outputs)[name].shape
        sizes = [size for size in shape or () if isinstance(size, int)]
        if shape is None or len(sizes) < len(shape):
            seen = "unknown" if shape is None else str(shape)
            raise InputError(
                f"part '{self.name}': the shape of '{name}' is {seen}, and the tool wants numbers: put "
                "freeze-shapes or freeze-batch into the recipe"
            )
        return sizes


@dataclass(frozen=True)
class Sample:
    """What a part reads of one image, by input, and what ONNX Runtime computes of it, by output.

    `number` counts from 0; `stem` is the name of the image's file without its ending, `original` the image's height and
    width, `pixels` the canvas in 8 bits, [H, W, 3], red first.
    """

    number: int
    stem: str
    original: tuple[int, int]
    pixels: npt.NDArray[np.uint8]
    inputs: Tensors
    outputs: Tensors


@dataclass(frozen=True)
class Runs:
    """How many runs of a part a tool wants at most, and `why` it can't do without, where it can't."""

    most: int
    why: str = ""


class Compiler:
    """Base of all compilers. One that only writes files needs `write` alone.

    name            as it is asked for: `compile FOLDER --with NAME`
    tool            what must be installed to run it, in words, for the message where it isn't
    write           the files that the tool wants
    write_sample    an image, in the form that the tool reads
    command         how the tool is called, in the job's folder; None where it runs nothing
    read_outputs    what the tool, or its device, computed of a sample
    open_shapes     inputs that stay open, from which shape to which: parts are tried there before anything is written
    takes_whole     whether it has all parts as one model, since the tool itself says what runs where
    runs            how many runs of a part it wants, to calibrate with and to compare (`compiling.feeds`)
    reports         whether the tool says what runs where, and may compute the runs (`compiling.report`)
    report          what it says; what its script wrote as report.json, if not another
    simulator       what the vendor has to play what was compiled: `--device npu=NAME`
    trials          what compiles and plays small models one after another: `probe --target NAME`
    """

    name: ClassVar[str]
    tool: ClassVar[str] = ""
    takes_whole: ClassVar[bool] = False
    reports: ClassVar[bool] = False
    simulator: ClassVar[type[Simulator] | None] = None
    trials: ClassVar[type[Trials] | None] = None

    def open_shapes(self) -> Mapping[str, OpenShape]:
        """Return the range of shapes that inputs of the parts are to take, by name; all others are fixed.

        A recipe holds the parts against the original model at shapes of it; `compile` by itself has no original, and
        sees whether the parts run there.
        """
        return {}

    def write(self, job: Job) -> None:
        """Write what the tool wants into `job.folder`. Raises InputError for a part that it can't take."""
        raise NotImplementedError

    def runs(self) -> Runs:
        """Return how many runs are written for the tool, where there are samples, and whether it can do without."""
        return Runs(0)

    def write_sample(self, job: Job, sample: Sample) -> None:
        """Write a sample into `job.folder`. Samples come one after another, behind `write`."""
        raise InputError(f"compiler '{self.name}' takes no samples; leave --images out")

    def command(self, job: Job) -> Sequence[str] | None:
        """Return the command line that compiles the part, to be run in `job.folder`."""
        return None

    def read_outputs(
        self, folder: Path, number: int, stem: str, outputs: Mapping[str, Tensor]
    ) -> dict[str, npt.NDArray[Any]]:
        """Return what the tool computed of a sample, out of the folder of its results, by the part's `outputs`.

        Raises InputError for a file that is missing or of another size.
        """
        raise InputError(f"compiler '{self.name}' reads no results")

    def report(self, job: Job) -> Report:
        """Return what the tool says of the part, behind `run`. Raises InputError where that is nothing known."""
        return read_report(job.folder, f"compiler '{self.name}': part '{job.name}'")

    def require_tool(self, job: Job) -> None:
        """Raise MissingTool where what `command` runs isn't installed."""
        command = self.command(job)
        if command is not None and shutil.which(command[0]) is None:
            raise self.missing(f"'{command[0]}'")

    def missing(self, what: str) -> MissingTool:
        """Return the error for a tool that isn't installed."""
        return MissingTool(
            f"compiler '{self.name}' needs {what} of {self.tool}, which isn't found; --no-run writes the files alone"
        )

    def run(self, job: Job) -> bool:
        """Run the tool and keep what it prints in NAME.log; return whether there is one to run.

        Raises MissingTool where it isn't installed, InputError where it fails or takes longer than two hours.
        """
        command = self.command(job)
        if command is None:
            return False
        self.require_tool(job)
        program = shutil.which(command[0]) or command[0]
        tool, log = Path(command[0]).name, job.folder / f"{self.name}.log"
        with log.open("wb") as messages:
            code = run_to_end([program, *command[1:]], _SECONDS, messages, job.folder)
        if code is None:
            raise InputError(f"part '{job.name}': {tool} takes longer than {_SECONDS:g} s")
        if self.reports and code == NOT_HERE:
            raise MissingTool(f"part '{job.name}': {last_line(log)}")
        if code:
            raise InputError(f"part '{job.name}': {tool} ends with {code}: {last_line(log) or 'it says nothing'}")
        return True
