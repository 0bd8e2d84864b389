"""Any ONNX file as a source."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from graphsurgery.detections.decode import decode
from graphsurgery.detections.guess import guess, missing_section
from graphsurgery.detections.row_groups import Group
from graphsurgery.devices.session import Session
from graphsurgery.errors import InputError, ModelError, first_line
from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import drop_notes
from graphsurgery.graph.protos import read_outside, stored_outside
from graphsurgery.images.batches import as_batch, of_first
from graphsurgery.images.canvas import Canvas
from graphsurgery.images.preprocessing import Preprocessing
from graphsurgery.sources.given_inputs import give, require_inputs
from graphsurgery.sources.row_groups import ROW_GROUPS
from graphsurgery.sources.source import Image, SourceSpec, Tensors

_DETECTIONS = ("boxes", "labels", "scores", "masks", "masks_pasted", "keypoints", "keypoints_scores")


class OnnxSource:
    """An ONNX model with one image input, [3, H, W] or [N, 3, H, W] float32 in 0..1, or as `spec.image` says.

    One that takes N images at once gets the same N times, and what it says of the first counts. Other inputs are what
    `spec.inputs` say that they always are, its outputs detections as `spec.detections` says. Raises ModelError for a
    file that is missing, damaged, no valid model, reaches outside its folder for its weights, or has no such input;
    InputError for a size that isn't the input's, for other inputs and outputs than are said.
    """

    row_groups: Sequence[Group] = ROW_GROUPS

    def __init__(self, spec: SourceSpec, boundary: Sequence[str] = ()) -> None:
        self.path = spec.folder / spec.name
        self.name = self.path.name
        loaded = Model.load(self.path)
        _check(loaded, self.path)
        self.folder: Path | None = loaded.folder if stored_outside(loaded.proto) else None
        self._model, self._as_in_file = loaded.proto, loaded.as_in_file
        require_inputs(self._model, spec.inputs, str(self.path))
        self._input = _image_input(self._model, spec, self.path)
        self.canvas = _canvas(self._input, spec, self.path)
        self._given = spec.inputs
        if spec.inputs:
            give(self._model, spec.inputs, (self.canvas.height, self.canvas.width))
            self._as_in_file = False
        self._sha256 = _sha256(loaded, self.path)
        self.detections = spec.detections
        self.classes: list[str] | None = None
        self._looked_at = False
        self._outputs = {value.name: _shape(value) for value in self._model.graph.output}
        if self.detections is not None:
            with self._guessed():
                self.detections.require_outputs(self._outputs)
            self.classes = self.detections.class_names
        self.set_boundary(boundary)

    @property
    def output_names(self) -> list[str]:
        """As Source."""
        return list(self._outputs)

    def set_boundary(self, names: Sequence[str]) -> None:
        """Name the tensors inside the graph that trace() is to return besides its inputs and outputs.

        Raises ModelError for one that the main graph doesn't compute.
        """
        computed = {name for node in self._model.graph.node for name in node.output if name}
        unknown = [name for name in names if name not in computed]
        if unknown:
            raise ModelError(f"{self.path}: no node outside If and Loop bodies computes '{unknown[0]}'; name another")
        self._boundary = tuple(dict.fromkeys(names))
        self._session: Session | None = None

    def describe(self) -> dict[str, object]:
        """Return kind, name, sha256 (of the file and of its external data), size, and image and detections if given."""
        image = self.canvas.image.to_json()
        described: dict[str, object] = {
            "kind": "onnx",
            "name": self.name,
            "weights_sha256": self._sha256,
            "size": [self.canvas.height, self.canvas.width],
        }
        described |= {"inputs": dict(self._given)} if self._given else {}
        described |= {"image": image} if image else {}
        return described | ({"detections": self.detections.to_json()} if self.detections is not None else {})

    def export(self) -> ModelProto:
        """Return the model as `Model.load` reads it, but for an earlier run's notes; external data stays outside."""
        copy = ModelProto()
        copy.CopyFrom(self._model)
        drop_notes(copy)
        return copy

    def trace(self, input: Image) -> Tensors:
        """Run the graph without optimisation; return its input, the boundary and its outputs by their names.

        `input` [3, H, W] is also returned under that name, unless the graph's own input is called so. Raises InputError
        where the outputs of the first image aren't of the shapes that `detections` says.
        """
        fed = self._fed(input)
        outputs = self._run(fed)
        if not self._looked_at:  # better told before a whole run than behind it
            self._looked_at = True
            self._decoded(outputs)
        return {"input": input} | fed | outputs

    def detect(self, input: Image) -> Tensors:
        """Return what `detections` reads out of the outputs, best first.

        Without it those that are called boxes, labels, scores, masks, masks_pasted, keypoints or keypoints_scores;
        masks of the canvas' size are called masks_pasted. Raises as `require_detections`, and InputError for outputs of
        other shapes than `detections` says.
        """
        self.require_detections()
        computed = self._run(self._fed(input))
        outputs = of_first({name: computed[name] for name in self._outputs}, _shape(self._input))
        if self.detections is not None:
            return self._decoded(outputs)
        found = {name: outputs[name] for name in _DETECTIONS if name in outputs}
        if "masks" in found and found["masks"].shape[-2:] == (self.canvas.height, self.canvas.width):
            found["masks_pasted"] = found.pop("masks")
        return found

    def require_detections(self) -> None:
        """Raise ModelError where nobody says what the outputs are, and they aren't called boxes, labels and scores."""
        if self.detections is None and not set(_DETECTIONS[:3]) <= set(self._outputs):
            said = missing_section(self._outputs, (self.canvas.height, self.canvas.width))
            raise ModelError(f"{self.path}: {said}")

    def _decoded(self, outputs: Tensors) -> Tensors:
        if self.detections is None:
            return {}
        own = {name: outputs[name] for name in self._outputs}
        with self._guessed():
            return decode(self.detections, own, (self.canvas.height, self.canvas.width))

    @contextlib.contextmanager
    def _guessed(self) -> Iterator[None]:
        """Say, where the section isn't of these outputs, what they look like."""
        try:
            yield
        except InputError as error:
            seen = guess(self._outputs, (self.canvas.height, self.canvas.width))
            raise InputError(f"{error}; {seen}" if seen else str(error)) from error

    def _fed(self, input: Image) -> Tensors:
        image = self.canvas.image.apply(np.ascontiguousarray(input, np.float32))
        return {self._input.name: as_batch(image, _shape(self._input))}

    def _run(self, fed: Tensors) -> Tensors:
        if self._session is None:
            known = {value.name for value in self._model.graph.output}
            extra = [ValueInfoProto(name=name) for name in self._boundary if name not in known]
            if extra or not self._as_in_file:
                model = self.export()
                model.graph.output.extend(extra)
                read_outside(model, self.folder)
                self._session = Session(model, name=str(self.path))
            else:
                self._session = Session(self.path, name=str(self.path))
        return self._session.run(fed)


def _check(model: Model, path: Path) -> None:
    if model.folder is None or not stored_outside(model.proto):
        model.check(str(path))
        return
    try:  # only from its path does the checker know where the external data lies
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{path}: not a valid ONNX model: {first_line(error)}") from error


def _image_input(model: ModelProto, spec: SourceSpec, path: Path) -> ValueInfoProto:
    image = spec.image
    stored = {tensor.name for tensor in model.graph.initializer} | spec.inputs.keys()
    inputs: list[ValueInfoProto] = [value for value in model.graph.input if value.name not in stored]
    if len(inputs) == 1 and _is_image(inputs[0], image):
        return inputs[0]
    seen = ", ".join(f"{value.name} {_text(value)}" for value in inputs) or "none"
    shape = "3, H, W" if image.layout == "NCHW" else "H, W, 3"
    advice = "; image in the recipe says what else it may be" if len(inputs) == 1 else ""
    if len(inputs) > 1 and any(_is_image(value, image) for value in inputs):
        advice = "; source.inputs in the recipe says what the others always are"
    raise ModelError(f"{path}: needs one input, {image.dtype} [{shape}] or [N, {shape}]; it has {seen}{advice}")


def _is_image(value: ValueInfoProto, image: Preprocessing) -> bool:
    tensor = value.type.tensor_type
    dims = tensor.shape.dim
    if tensor.elem_type != onnx.helper.np_dtype_to_tensor_dtype(np.dtype(image.dtype)) or len(dims) not in (3, 4):
        return False
    empty = len(dims) == 4 and dims[0].HasField("dim_value") and dims[0].dim_value < 1
    channels = dims[-3 if image.layout == "NCHW" else -1]
    return not empty and (not channels.HasField("dim_value") or channels.dim_value == 3)


def _text(value: ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    return f"{TensorProto.DataType.Name(tensor.elem_type).lower()} [{', '.join(dims)}]"


def _shape(value: ValueInfoProto) -> list[int | str | None] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim]


def _canvas(value: ValueInfoProto, spec: SourceSpec, path: Path) -> Canvas:
    size, shape = spec.size, list(value.type.tensor_type.shape.dim)
    dims = shape[-2:] if spec.image.layout == "NCHW" else shape[-3:-1]
    fixed = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    if size is None:
        if None in fixed:
            raise InputError(f"source.size: {path} has no fixed size ({_text(value)}); write size: [height, width]")
        size = (dims[0].dim_value, dims[1].dim_value)
    if any(has is not None and has != wanted for has, wanted in zip(fixed, size, strict=True)):
        raise InputError(f"source.size: {path} works on {_text(value)}, not on {size[0]}x{size[1]}; leave size out")
    return Canvas(*size, image=spec.image)


def _sha256(model: Model, path: Path) -> str:
    files = [path]
    if model.folder is not None:
        locations = {
            entry.value for t in stored_outside(model.proto) for entry in t.external_data if entry.key == "location"
        }
        files += [model.folder / location for location in sorted(locations)]
    digests = []
    for each in files:
        with each.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
