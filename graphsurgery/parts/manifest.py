"""manifest.json: what the parts in a folder are, how they connect, and what the runtime does around them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from graphsurgery import files
from graphsurgery.detections.guess import missing_section
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.detections.views import OpenShapes
from graphsurgery.devices.choices import parse_devices
from graphsurgery.devices.providers import DeviceChoice
from graphsurgery.errors import InputError
from graphsurgery.graph.joined_outputs import JoinedOutput, joined_shapes
from graphsurgery.images.canvas import Canvas
from graphsurgery.images.other_inputs import OtherInput
from graphsurgery.parts.ap_protocol import ApProtocol
from graphsurgery.parts.part import is_numpys
from graphsurgery.version import __version__

FILE_NAME = "manifest.json"
COMPILED, COMPILED_FILE = "compiled", "compiled.json"  # what compilers made: compiled/NAME/compiled.json and others
MOST_BYTES = 16 * files.MB
_LARGEST_TENSOR = 2**32  # bytes
_LARGEST_BATCH = 2**16


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tensor(_Section):
    """Shape and dtype of a boundary tensor; a dimension that varies is its symbol, or null."""

    shape: list[Annotated[int, Field(ge=0)] | str | None] | None
    dtype: str

    @field_validator("dtype")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            dtype = np.dtype(name if name.isidentifier() else "")
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"'{name[:40]}' is no dtype") from error
        if not is_numpys(dtype):
            raise ValueError(f"'{name}' is none of NumPy's dtypes, so that no tensor of it can be handed over")
        return name

    @model_validator(mode="after")
    def _has_bounds(self) -> Tensor:
        self.require_rows(1)
        return self

    def require_rows(self, rows: int) -> None:
        """Raise ValueError for a tensor that no memory holds, of that many `rows` or of those that the shape says."""
        first, *sizes = (size if isinstance(size, int) and size else 1 for size in self.shape or (1,))
        taken = max(first, rows) * math.prod(sizes) * np.dtype(self.dtype).itemsize
        if taken > _LARGEST_TENSOR:
            raise ValueError(f"a tensor of more than {_LARGEST_TENSOR} bytes")


class Batch(_Section):
    """A frozen batch, which the runtime fills with the rows that there are, `size` at a time.

    `inputs` and `outputs` are the tensors that have rows: their first dimension is the batch. Another input is a
    parameter, which each run is given as it is.
    """

    size: int = Field(gt=0, le=_LARGEST_BATCH)
    inputs: list[str]
    outputs: list[str]


class PartEntry(_Section):
    """One part: an ONNX file beside the manifest, and the device that the recipe wants it on.

    `size` in bytes and `sha256` are those of the file; earlier versions wrote none. `data_size` is that of the file
    with its weights, `file` with .data behind it, where they are in one. `sampled` are the axes of inputs and outputs
    whose sizes nothing tells but the samples that the parts were made with, all of which have them.
    """

    name: str
    device: str
    accelerator: bool
    file: str
    size: int | None = None
    sha256: str | None = None
    data_size: int | None = None
    batch: Batch | None
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    sampled: dict[str, list[int]] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_earlier_versions(cls, content: Any) -> Any:
        """Earlier versions wrote no `inputs` and `outputs` of a batch, all had rows, but a `mode` that nobody read."""
        if not isinstance(content, dict) or not isinstance(content.get("batch"), dict):
            return content
        batch = {key: value for key, value in content["batch"].items() if key != "mode"}
        ends = {end: list(content[end]) for end in ("inputs", "outputs") if isinstance(content.get(end), dict)}
        return content | {"batch": ends | batch}

    @model_validator(mode="after")
    def _rows_are_its_own(self) -> PartEntry:
        if self.batch is not None:
            for kind, rows, ends in (
                ("input", self.batch.inputs, self.inputs),
                ("output", self.batch.outputs, self.outputs),
            ):
                absent = [name for name in rows if name not in ends]
                if absent or not rows:
                    raise ValueError(
                        f"the batch has rows in '{absent[0]}', no {kind}" if absent else f"no {kind} has rows"
                    )
                for name in rows:
                    ends[name].require_rows(self.batch.size)
        return self


class Manifest(_Section):
    """The parts in the order they are played.

    `classes` are the names of the labels, from 0 on, where the source knows them, and `detections` is what the outputs
    are, where the recipe says it. `canvas` is the size of the network's image with its mean and std; `normalise` says
    whether the runtime normalises (the graph's own preprocessing was dropped). `input` is the tensor that the image
    goes into, `inputs` are others, which follow from how the image lies on the canvas (`images.other_inputs`).
    `outputs` are what the parts give, and `masks` is the one among them that holds mask probabilities for the runtime
    to paste. `joins` says which of them are pieces that the runtime joins: the detector's outputs, which `detections`
    speak of, are those behind that. `devices` are the providers that a device is mapped to unless somebody says
    otherwise, as --device has them; `variants` are folders in this one that hold the same parts made otherwise,
    quantized for example. `compiled` are the SHA-256 of what compilers made of the parts, by their names: of
    compiled/NAME/compiled.json, which has those of the files. `evaluation` is how AP is measured, where the recipe says
    so.
    """

    format: Literal[1] = 1
    graphsurgery: str = __version__
    recipe: str
    source: dict[str, Any]
    classes: list[str] | None = None
    detections: dict[str, Any] | None = None
    canvas: dict[str, Any]
    normalise: bool
    input: str
    inputs: dict[str, Any] = {}
    outputs: list[str]
    joins: list[JoinedOutput] = []
    masks: str | None = None
    parts: list[PartEntry]
    devices: dict[str, str] = {}
    variants: list[str] = []
    evaluation: ApProtocol | None = None
    compiled: dict[str, str] = {}

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Read the manifest in `folder`. Raises InputError when there is none or it is not one."""
        path = folder / FILE_NAME
        try:
            manifest = Manifest.model_validate_json(files.read_bytes(path, MOST_BYTES))
        except OSError as error:
            reason = files.reason(error)
            raise InputError(f"{path}: can't be read ({reason}); give a folder that 'apply' wrote") from error
        except ValidationError as error:
            raise InputError(f"{path}: not a manifest of this version: {files.first_fault(error)}") from error
        try:
            manifest.check_names()
            canvas = Canvas.from_json(manifest.canvas)
            joined_shapes(dict.fromkeys(manifest.outputs), manifest.joins)
            if manifest.postprocessing is not None:
                manifest.postprocessing.require_outputs(manifest.output_shapes)
            manifest.check_connections()
            for other in manifest.other_inputs:
                other.require_fit((canvas.height, canvas.width))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return manifest

    @property
    def postprocessing(self) -> Postprocessing | None:
        """How detections are read out of the outputs, None where nobody says. Raises InputError for what is none."""
        return None if self.detections is None else Postprocessing.from_json(self.detections)

    @property
    def other_inputs(self) -> list[OtherInput]:
        """The inputs besides the image, in the form that the parts read. Raises InputError for a value that is none."""
        read = {name: tensor for part in self.parts for name, tensor in part.inputs.items()}
        return [
            OtherInput(name, value, read[name].shape, np.dtype(read[name].dtype)) for name, value in self.inputs.items()
        ]

    @property
    def output_shapes(self) -> OpenShapes:
        """The shapes of the detector's outputs, as far as they are known."""
        written = {name: tensor.shape for part in self.parts for name, tensor in part.outputs.items()}
        return joined_shapes({name: written.get(name) for name in self.outputs}, self.joins)

    @property
    def detects(self) -> bool:
        """Whether detections can be read out of the outputs."""
        return self.detections is not None or "boxes" in self.output_shapes

    @property
    def labels(self) -> range | None:
        """The labels that there can be, None where that isn't known."""
        section = self.postprocessing
        return None if section is None else section.labels_of(self.output_shapes)

    def require_detections(self, place: object) -> None:
        """Raise InputError, which names `place`, where nobody says how detections are read out of the outputs."""
        if not self.detects:
            canvas = Canvas.from_json(self.canvas)
            raise InputError(f"{place}: {missing_section(self.output_shapes, (canvas.height, canvas.width))}")

    def check_names(self) -> None:
        """Raise InputError unless each part has a file of its own beside the manifest, and each variant a folder."""
        taken: set[str] = set()
        for part in self.parts:
            if not files.is_plain_name(part.file) or not part.file.endswith(".onnx"):
                raise InputError(f"part '{part.name}' has the file '{part.file}', which is not beside it")
            if part.file.casefold() in taken:
                raise InputError(f"part '{part.name}' has the file '{part.file}', which is another part's")
            taken.add(part.file.casefold())
        for name in self.variants:
            if not files.is_plain_name(name):
                raise InputError(f"variant '{name}' is no folder beside the manifest")
        for name in self.compiled:
            if not files.is_plain_name(name):
                raise InputError(f"compiled '{name}' is no folder in {COMPILED}")

    def choose_devices(self, folder: Path, given: Mapping[str, DeviceChoice]) -> dict[str, DeviceChoice]:
        """Return the providers of the devices: those `given`, and what the manifest, which lies in `folder`, says else.

        The manifest may come from anybody, so what it says reads and writes no file outside of that folder: the others
        raise InputError.
        """
        own = (f"{device}={choice}" for device, choice in self.devices.items() if device not in given)
        try:
            return parse_devices(own, inside=folder) | dict(given)
        except InputError as error:
            raise InputError(f"{folder / FILE_NAME}: {error}") from error

    def check_connections(self) -> None:
        """Raise InputError unless parts read the inputs and what parts before them write, and outputs are written."""
        read = {name for part in self.parts for name in part.inputs}
        if self.parts and self.input not in read:
            raise InputError(f"no part reads the image '{self.input}'")
        unread = [name for name in self.inputs if name not in read or name == self.input]
        if unread:
            raise InputError(f"no part reads the input '{unread[0]}' besides the image '{self.input}'")
        written = {self.input, *self.inputs}
        for part in self.parts:
            absent = [name for name in part.inputs if name not in written]
            if absent:
                raise InputError(f"part '{part.name}' reads '{absent[0]}', which no part before it writes")
            written.update(part.outputs)
        absent = [name for name in self.outputs if name not in written]
        if absent:
            raise InputError(f"no part writes the output '{absent[0]}'")
        if self.masks is not None and self.masks not in self.outputs:
            raise InputError(f"masks is '{self.masks}', which is no output")

    def to_json(self) -> str:
        """Return the text of manifest.json."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"
