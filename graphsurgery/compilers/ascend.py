"""Huawei's Ascend: atc of the CANN toolkit makes an offline model (.om) of a part, for one chip.

    PART/atc.sh             the command line, to be run where CANN is
    PART/aipp.cfg           with `aipp`: the normalisation of the image, done by the chip
    PART/input/STEM.bin     an image as the part, or with `aipp` the chip, reads it
    PART/input_bin.info     a list of these files, and in input_jpg.info one of the images

    results                 STEM_0.bin, STEM_1.bin, ... in the order of the part's outputs

A node's output is named as NODE:INDEX, and an input's shape by its name, so both must be fixed. A list has a line
`INDEX PATH WIDTH HEIGHT` for each image: of the .bin files with the size of the canvas, of the images with their own.

Source: CANN 5.1 and 8.1, "ATC Instructions"; ModelZoo-PyTorch 6a2804a, ACL_PyTorch/contrib/cv/classfication/MaskRcnn
(onnx2om.sh, get_info.py), whose results are those of ais_bench.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from graphsurgery.compiling import Compiler, Job, Sample
from graphsurgery.compiling.raw_files import read_numbered, write_raw
from graphsurgery.errors import InputError
from graphsurgery.parts.manifest import Tensor

_ONNX = 5  # atc's --framework
_AIPP = "aipp.cfg"


@dataclass(frozen=True)
class Ascend(Compiler):
    """`soc_version` is the chip, such as Ascend310P3. `aipp` gives the chip 8-bit pixels, and it normalises them.

    `input_format` is the layout of the image, `log` how much atc says.
    """

    name = "ascend"
    tool = "Huawei's CANN toolkit"

    soc_version: str
    input_format: Literal["NCHW", "NHWC", "ND"] = "NCHW"
    log: Literal["debug", "info", "warning", "error", "null"] = "error"
    aipp: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a chip that is no plain name."""
        if not self.soc_version.isalnum():
            raise ValueError(f"soc_version is '{self.soc_version}'; it is a chip's name, such as Ascend310P3")

    def write(self, job: Job) -> None:
        line = " \\\n    ".join(shlex.quote(word) for word in self.command(job))
        job.write_text("atc.sh", f'#!/bin/sh\nset -e\ncd "$(dirname "$0")"\n{line}\n')
        if self.aipp:
            job.write_text(_AIPP, _aipp(job))

    def command(self, job: Job) -> Sequence[str]:
        shapes = ";".join(f"{name}:{','.join(map(str, job.static_shape(name)))}" for name in job.entry.inputs)
        return [
            "atc",
            f"--model={job.file}",
            f"--framework={_ONNX}",
            f"--output={job.name}",
            f"--input_format={self.input_format}",
            f"--input_shape={shapes}",
            f"--out_nodes={';'.join(_out_nodes(job))}",
            f"--log={self.log}",
            f"--soc_version={self.soc_version}",
            *([f"--insert_op_conf={_AIPP}"] if self.aipp else []),
        ]

    def write_sample(self, job: Job, sample: Sample) -> None:
        height, width = sample.original
        for name, values in sample.inputs.items():
            values = sample.pixels[None] if self.aipp and name == job.image else values
            place = "input" if len(sample.inputs) == 1 else f"input_{list(sample.inputs).index(name)}"
            file = f"{place}/{sample.stem}.bin"
            write_raw(job.folder / file, values)
            if name == job.image:
                _append(job.folder / f"{place}_bin.info", sample, file, job.canvas.width, job.canvas.height)
                _append(job.folder / f"{place}_jpg.info", sample, sample.stem, width, height)

    def read_outputs(
        self, folder: Path, number: int, stem: str, outputs: Mapping[str, Tensor]
    ) -> dict[str, npt.NDArray[Any]]:
        return read_numbered(folder, stem, outputs)


def _out_nodes(job: Job) -> list[str]:
    """Return NODE:INDEX of each output of the part, in their order."""
    writers = {
        output: f"{node.name}:{index}"
        for node in job.model.proto.graph.node
        for index, output in enumerate(node.output)
        if output
    }
    for name in job.entry.outputs:
        if name not in writers:
            raise InputError(f"part '{job.name}': no node writes its output '{name}', and atc names outputs by nodes")
        node = writers[name].rpartition(":")[0]
        if ";" in node or ":" in node:
            raise InputError(f"part '{job.name}': node '{node}' has a ; or : in its name, which atc separates by")
    return [writers[name] for name in job.entry.outputs]


def _append(info: Path, sample: Sample, path: str, width: int, height: int) -> None:
    with info.open("a", encoding="utf-8", newline="\n") as file:
        file.write(f"{sample.number} {path} {width} {height}\n")


def _aipp(job: Job) -> str:
    """Return what makes float pixels of the network out of 8-bit ones of the canvas, red first.

    The chip computes (x - min) * var_reci behind the swap of channels, for each in the network's order.
    """
    wanted = job.canvas.image
    if job.image is None or wanted.dtype == "uint8":
        raise InputError(f"part '{job.name}': it reads no image in floats that the chip could make; leave aipp out")
    black, white = (job.canvas.pixel(value) for value in (0.0, 1.0))
    slope = (white - black) / 255
    lines = [
        "aipp_mode: static",
        "input_format: RGB888_U8",
        f"src_image_size_w: {job.canvas.width}",
        f"src_image_size_h: {job.canvas.height}",
        "csc_switch: false",
        f"rbuv_swap_switch: {'true' if wanted.channels == 'BGR' else 'false'}",
        *(
            f"min_chn_{channel}: {-low / rise:.9g}"
            for channel, (low, rise) in enumerate(zip(black, slope, strict=True))
        ),
        *(f"var_reci_chn_{channel}: {rise:.9g}" for channel, rise in enumerate(slope)),
    ]
    return "\n".join(["aipp_op {", *(f"    {line}" for line in lines), "}", ""])
