"""Any ONNX file as a source."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from graphsurgery.detections.decode import decode
from graphsurgery.detections.guess import guess, missing_section
from graphsurgery.detections.plain import require_whole
from graphsurgery.detections.row_groups import Group
from graphsurgery.devices.session import Session
from graphsurgery.errors import InputError, ModelError, first_line
from graphsurgery.graph.expansion import expanded
from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import drop_notes
from graphsurgery.graph.outside import digest_of
from graphsurgery.graph.protos import declared_shape, stored_outside
from graphsurgery.images.batches import as_batch, of_first, turned
from graphsurgery.images.canvas import Canvas, CanvasImage
from graphsurgery.images.preprocessing import DType, Layout, Preprocessing
from graphsurgery.sources.given_inputs import give, require_inputs
from graphsurgery.sources.named_outputs import with_named_outputs
from graphsurgery.sources.row_groups import ROW_GROUPS
from graphsurgery.sources.source import SourceSpec, Tensors

_LARGEST_BATCH = 2**16
_DETECTIONS = ("boxes", "labels", "scores", "masks", "masks_pasted", "keypoints", "keypoints_scores")


class OnnxSource:
    """An ONNX model with one image input, [3, H, W] or [N, 3, H, W] float32 in 0..1, or as `spec.image` says.

    One that takes N images at once, or any number where `spec.batch` is N, gets N, and what it says of the first
    counts. Other inputs are what `spec.inputs` say, its outputs detections as `spec.detections` says. Raises ModelError
    for a file that is missing, damaged, no valid model, reaches outside its folder for its weights, or has no such
    input; InputError for a size or a batch that isn't the input's, for other inputs and outputs than are said.
    Outputs are called as `spec.outputs` says, if it does.
    """

    row_groups: Sequence[Group] = ROW_GROUPS

    def __init__(self, spec: SourceSpec, boundary: Sequence[str] = ()) -> None:
        self.path = spec.folder / spec.name
        self.name = self.path.name
        loaded = Model.load(self.path)
        _check(loaded, self.path)
        self.folder: Path | None = loaded.folder if stored_outside(loaded.proto) else None
        self._model, self._as_in_file = loaded.proto, loaded.as_in_file
        self._said_outputs = spec.outputs
        if spec.outputs is not None:
            self._model, self._as_in_file = with_named_outputs(self._model, spec.outputs, str(self.path)), False
        require_inputs(self._model, spec.inputs, str(self.path))
        self._input = _image_input(self._model, spec, self.path)
        self.canvas = _canvas(self._input, spec, self.path)
        self.batch = _batch(self._input, spec, self.path)
        shape = declared_shape(self._input)
        self._shape = [self.batch, *shape[1:]] if shape and self.batch is not None else shape
        self._given, self._said_batch = spec.inputs, spec.batch
        canvas = (self.canvas.height, self.canvas.width)
        self._following = give(self._model, spec.inputs, canvas, self.batch or 1)
        self._as_in_file &= len(self._following) == len(spec.inputs)
        self._sha256 = _sha256(loaded, self.path)
        self.detections = spec.detections
        self.classes: list[str] | None = None
        self._looked_at = False
        self._outputs = {value.name: declared_shape(value) for value in self._model.graph.output}
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
        """Return kind, name, sha256 (of the file and of pieces of its external data), size, and what else is given."""
        image = self.canvas.image.to_json()
        described: dict[str, object] = {
            "kind": "onnx",
            "name": self.name,
            "weights_sha256": self._sha256,
            "size": [self.canvas.height, self.canvas.width],
        }
        described |= {"batch": self._said_batch} if self._said_batch is not None else {}
        described |= {"inputs": dict(self._given)} if self._given else {}
        described |= {"outputs": list(self._said_outputs)} if self._said_outputs is not None else {}
        described |= {"image": image} if image else {}
        return described | ({"detections": self.detections.to_json()} if self.detections is not None else {})

    def export(self) -> ModelProto:
        """Return the model as `Model.load` reads it, but for an earlier run's notes; external data stays outside."""
        copy = ModelProto()
        copy.CopyFrom(self._model)
        drop_notes(copy)
        return copy

    def trace(self, placed: CanvasImage) -> Tensors:
        """Run the graph without optimisation; return its inputs, the boundary and its outputs by their names.

        The canvas [3, H, W] is also returned as `input`, unless the graph's own input is called so. In a batch all
        images but the first are others, so that a pass that mixes them up is seen. Raises InputError where the outputs
        of the first image aren't of the shapes that `detections` says.
        """
        fed = self._fed(placed)
        count = self.batch or 1
        for row in range(1, count):
            fed[self._input.name][row] = self.canvas.image.apply(turned(placed, row / count).input)
        outputs = self._run(fed)
        if not self._looked_at:  # better told before a whole run than behind it
            self._looked_at = True
            self._decoded(outputs, placed)
        return {"input": placed.input} | fed | outputs

    def detect(self, placed: CanvasImage) -> Tensors:
        """Return what `detections` reads out of the outputs, best first.

        Without it those that are called boxes, labels, scores, masks, masks_pasted, keypoints or keypoints_scores;
        masks of the canvas' size are called masks_pasted. In a batch all images are this one, as the runtime has it.
        Raises as `require_detections`, and InputError for outputs of other shapes than `detections` says.
        """
        self.require_detections()
        computed = self._run(self._fed(placed))
        if self.detections is not None:
            return self._decoded(computed, placed)
        outputs = self._of_first(computed)
        found = {name: outputs[name] for name in _DETECTIONS if name in outputs}
        if "masks" in found and found["masks"].shape[-2:] == (self.canvas.height, self.canvas.width):
            found["masks_pasted"] = found.pop("masks")
        return found

    def require_detections(self) -> None:
        """Raise ModelError where nobody says what the outputs are, and they aren't called boxes, labels and scores."""
        if self.detections is None and not set(_DETECTIONS[:3]) <= set(self._outputs):
            said = missing_section(self._outputs, (self.canvas.height, self.canvas.width))
            raise ModelError(f"{self.path}: {said}")

    def _decoded(self, computed: Tensors, placed: CanvasImage) -> Tensors:
        if self.detections is None:
            return {}
        with self._guessed():
            return decode(self.detections, self._of_first(computed), placed.placement)

    def _of_first(self, computed: Tensors) -> Tensors:
        return of_first({name: computed[name] for name in self._outputs}, self._shape)

    @contextlib.contextmanager
    def _guessed(self) -> Iterator[None]:
        """Say, where the section isn't of these outputs, what they look like."""
        try:
            yield
        except InputError as error:
            seen = guess(self._outputs, (self.canvas.height, self.canvas.width))
            raise InputError(f"{error}; {seen}" if seen else str(error)) from error

    def _fed(self, placed: CanvasImage) -> Tensors:
        image = self.canvas.image.apply(placed.input)
        others = {each.name: each.of(placed.placement, self.batch or 1) for each in self._following}
        return {self._input.name: as_batch(image, self._shape)} | others

    def _run(self, fed: Tensors) -> Tensors:
        if self._session is None:
            known = {value.name for value in self._model.graph.output}
            extra = [ValueInfoProto(name=name) for name in self._boundary if name not in known]
            if extra or not self._as_in_file:
                model = Model(self.export(), self.folder).bound().proto
                model.graph.output.extend(extra)
                self._session = Session(model, name=str(self.path))
            else:
                self._session = Session(self.path, name=str(self.path))
        return self._session.run(fed)


def _check(model: Model, path: Path) -> None:
    if model.folder is None or not stored_outside(model.proto):
        model.check(str(path))
        return
    if expanded(model.proto) is not model.proto:
        model.bound().check(str(path))
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
    advice = "".join(f"; {each}" for each in _advice(inputs, image))
    raise ModelError(f"{path}: needs one input, {image.dtype} [{shape}] or [N, {shape}]; it has {seen}{advice}")


def _advice(inputs: Sequence[ValueInfoProto], image: Preprocessing) -> Iterator[str]:
    """Name the sections that would make one of the inputs the image, and say what the others are."""
    fits = any(_is_image(value, image) for value in inputs)
    seems = "" if fits else next(filter(None, (_guessed_image(value, image) for value in inputs)), "")
    if seems or len(inputs) == 1:
        yield f"image in the recipe says what else it may be{seems}"
    if len(inputs) > 1 and (fits or seems):
        yield "source.inputs in the recipe says what the others are"


def _guessed_image(value: ValueInfoProto, image: Preprocessing) -> str:
    """Return ": x looks like {dtype: uint8, range: 255}", the keys with which an input is the image; "" without any."""
    for layout, dtype in product(get_args(Layout), get_args(DType)):
        keys: dict[str, Any] = {"layout": layout, "dtype": dtype} | ({"range": 255} if dtype == "uint8" else {})
        if _is_image(value, Preprocessing(**keys)):
            changed = ", ".join(f"{key}: {wanted}" for key, wanted in keys.items() if getattr(image, key) != wanted)
            return f": {value.name} looks like {{{changed}}}"
    return ""


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


def _batch(value: ValueInfoProto, spec: SourceSpec, path: Path) -> int | None:
    """Return how many images the graph takes at once, None where that is open or it takes one without a batch."""
    first = value.type.tensor_type.shape.dim[0]
    has_batch = len(value.type.tensor_type.shape.dim) == 4
    fixed = first.dim_value if has_batch and first.HasField("dim_value") else None
    if spec.batch is None:
        return fixed
    require_whole("source.batch", spec.batch, 1, _LARGEST_BATCH)
    if not has_batch or fixed not in (None, spec.batch):
        raise InputError(f"source.batch: {path} works on {_text(value)}, not on {spec.batch} at once; leave batch out")
    return spec.batch


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
    """Return what tells the model from others: of the file, and of what lies outside of it as `digest_of` has it."""
    with path.open("rb") as file:
        digests = [hashlib.file_digest(file, "sha256").hexdigest()]
    digests += [digest_of(tensor, model.folder) for tensor in stored_outside(model.proto)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
