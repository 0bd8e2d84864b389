"""Cambricon's MagicMind: its builder takes an ONNX file and a JSON of options.

    PART/build.json         the options, with the keys of MagicMind's builder and no others
    PART/build.py           parses the model and builds it, where magicmind can be imported
    PART/input/STEM.bin     an image as the part reads it
    PART/calibration.txt    a list of them with their shapes, which ranges of integers are taken from

    results                 STEM_0.bin, STEM_1.bin, ... in the order of the part's outputs

Inputs may stay open: `dim_range` says from which sizes to which, and the graph must hold at both ends and in between.

Source: magicmind_cloud dc085c1, buildin/cv/detection/maskrcnn_pytorch/gen_model and buildin/python_common
(build_param.py, model_process.py).
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from graphsurgery.compiling import Compiler, Job, OpenShape, Sample
from graphsurgery.compiling.open_shapes import ranges_of
from graphsurgery.compiling.raw_files import read_numbered, write_raw
from graphsurgery.errors import InputError, did_you_mean
from graphsurgery.parts.manifest import Tensor

Precision = Literal[
    "force_float32",
    "force_float16",
    "qint8_mixed_float16",
    "qint16_mixed_float16",
    "qint8_mixed_float32",
    "qint16_mixed_float32",
]
Range = Mapping[Literal["min", "max"], tuple[int, ...]]
_ARCHITECTURES = ("mtp_220", "mtp_270", "mtp_290", "mtp_372", "tp_322", "mtp_592")


@dataclass(frozen=True)
class MagicMind(Compiler):
    """`precision` is that of the whole model; `activations` and `weights` say how integers of it are scaled.

    `archs` are the chips and how many clusters of each may be used. `dim_range` has the smallest and the largest shape
    of each input that stays open. `uint8_image` lets a BatchNormalization in front of the model normalise 8-bit pixels,
    `input_layout` is how the image lies in memory, `conv_scale_fold` folds Mul and Add behind a Conv into it.
    """

    name = "magicmind"
    tool = "Cambricon's MagicMind, a package for Python"

    precision: Precision = "force_float32"
    activations: Literal["symmetric", "asymmetric"] = "symmetric"
    weights: Literal["per_tensor", "per_axis"] = "per_tensor"
    archs: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"mtp_372": (2, 6, 8)})
    dim_range: Mapping[str, Range] = field(default_factory=dict)
    uint8_image: bool = False
    input_layout: Literal["NCHW", "NHWC"] = "NCHW"
    conv_scale_fold: bool = False
    computation_preference: Literal["auto", "fast", "high_precision"] = "auto"

    def __post_init__(self) -> None:
        """Raise ValueError for a chip that MagicMind doesn't know, and a range that is none."""
        for arch, clusters in self.archs.items():
            if arch not in _ARCHITECTURES:
                raise ValueError(f"archs: there is no '{arch}'.{did_you_mean(arch, _ARCHITECTURES)}")
            if not clusters or min(clusters) < 1:
                raise ValueError(f"archs: {arch} has clusters {list(clusters)}; give how many, 1 or more")
        self.open_shapes()

    def open_shapes(self) -> Mapping[str, OpenShape]:
        """As Compiler. Raises ValueError for a range that is none."""
        return ranges_of(self.dim_range)

    def write(self, job: Job) -> None:
        job.write_text("build.json", json.dumps(self._options(job), indent=1) + "\n")
        quantized = self.precision.startswith("qint")
        job.write_text("build.py", _BUILD.format(model=job.file, name=job.name, calibrate=quantized))

    def _options(self, job: Job) -> dict[str, Any]:
        precision: dict[str, str] = {"precision_mode": self.precision}
        if self.precision.startswith("qint"):
            precision |= {"activation_quant_algo": self.activations, "weight_quant_granularity": self.weights}
        options: dict[str, Any] = {
            "archs": [{arch: list(clusters)} for arch, clusters in self.archs.items()],
            "precision_config": precision,
            "opt_config": {"type64to32_conversion": True, "conv_scale_fold": self.conv_scale_fold},
            "graph_shape_mutable": bool(self.dim_range),
            "computation_preference": self.computation_preference,
        }
        if self.dim_range:
            options["dim_range"] = self._ranges(job)
        else:
            for name in job.entry.inputs:
                job.static_shape(name)
        if self.uint8_image or self.input_layout == "NHWC":
            place = str(_place_of_image(job))
            if self.uint8_image:
                options["insert_bn_before_firstnode"] = {place: _normalisation(job)}
            if self.input_layout == "NHWC":
                options["convert_input_layout"] = {place: {"src": "NCHW", "dst": "NHWC"}}
        return options

    def _ranges(self, job: Job) -> dict[str, Any]:
        for name in set(job.entry.inputs) - set(self.dim_range):
            job.static_shape(name)
        ranges = self.open_shapes()
        return {name: {"min": list(each.low), "max": list(each.high)} for name, each in ranges.items()}

    def command(self, job: Job) -> list[str]:
        return [sys.executable, "build.py"]

    def require_tool(self, job: Job) -> None:
        if importlib.util.find_spec("magicmind") is None:
            raise self.missing("the package magicmind")

    def write_sample(self, job: Job, sample: Sample) -> None:
        if len(sample.inputs) > 1:
            raise InputError(
                f"part '{job.name}': MagicMind's list of samples is for one input; it has {len(sample.inputs)}"
            )
        ((name, values),) = sample.inputs.items()
        if name == job.image and self.uint8_image:
            values = sample.pixels.transpose(2, 0, 1)[None]
        if name == job.image and self.input_layout == "NHWC":
            values = values.transpose(0, 2, 3, 1)
        file = f"input/{sample.stem}.bin"
        write_raw(job.folder / file, values)
        with (job.folder / "calibration.txt").open("a", encoding="utf-8", newline="\n") as listed:
            listed.write(f"{file} shape[{','.join(map(str, values.shape))}]\n")

    def read_outputs(
        self, folder: Path, number: int, stem: str, outputs: Mapping[str, Tensor]
    ) -> dict[str, npt.NDArray[Any]]:
        return read_numbered(folder, stem, outputs)


def _place_of_image(job: Job) -> int:
    if job.image is None:
        raise InputError(f"part '{job.name}': it reads no image; leave uint8_image and input_layout out")
    return list(job.entry.inputs).index(job.image)


def _normalisation(job: Job) -> dict[str, list[float]]:
    """Return the mean and the variance by which 8-bit pixels become what the network reads."""
    black, white = (job.canvas.pixel(value) for value in (0.0, 1.0))
    slope = (white - black) / 255
    return {"mean": [float(v) for v in -black / slope], "var": [float(v) for v in slope**-2]}


_BUILD = '''\
"""Builds {name} with MagicMind, by build.json."""

import magicmind.python.runtime as mm
import numpy as np
from magicmind.python.runtime.parser import Parser

QUANTIZED = {calibrate}


class Samples(mm.CalibDataInterface):
    """The samples that calibration.txt lists."""

    def __init__(self):
        super().__init__()
        with open("calibration.txt", encoding="utf-8") as file:
            self.listed = [line.split(" shape") for line in file]
        self.at = -1

    def next(self):
        self.at += 1
        return mm.Status.OK() if self.at < len(self.listed) else mm.Status(mm.Code.OUT_OF_RANGE, "no more samples")

    def reset(self):
        self.at = -1
        return mm.Status.OK()

    def get_shape(self):
        return mm.Dims([int(size) for size in self.listed[self.at][1].strip()[1:-1].split(",")])

    def get_data_type(self):
        return mm.DataType.FLOAT32

    def get_sample(self):
        sample = np.fromfile(self.listed[self.at][0], np.float32)
        return sample.reshape([int(size) for size in self.listed[self.at][1].strip()[1:-1].split(",")])


network, config = mm.Network(), mm.BuilderConfig()
assert Parser(mm.ModelKind.kOnnx).parse(network, "{model}").ok()
with open("build.json", encoding="utf-8") as file:
    assert config.parse_from_string(file.read()).ok()
if QUANTIZED:
    calibrator = mm.Calibrator([Samples()])
    assert calibrator.set_quantization_algorithm(mm.QuantizationAlgorithm.LINEAR_ALGORITHM).ok()
    assert calibrator.calibrate(network, config).ok()
model = mm.Builder().build_model("{name}", network, config)
assert model is not None
assert model.serialize_to_file("{name}.mm").ok()
'''
