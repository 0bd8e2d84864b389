"""Describes parts for their manifest: what they read and write, and what passes noted in them for the runtime."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from pydantic import ValidationError

from graphsurgery import files
from graphsurgery.errors import InputError, ModelError
from graphsurgery.graph.joined_outputs import JoinedOutput
from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import MASKS_NOTE, NORMALISATION_NOTE, SAMPLED_NOTE, frozen_batch
from graphsurgery.graph.protos import declared_shape, required_inputs
from graphsurgery.images.canvas import Canvas
from graphsurgery.parts.ap_protocol import ApProtocol
from graphsurgery.parts.manifest import Batch, Manifest, PartEntry, Tensor
from graphsurgery.parts.part import Part, is_numpys


def describe_parts(
    parts: list[Part],
    recipe: str,
    source: dict[str, Any],
    canvas: Canvas,
    inputs: list[str],
    outputs: list[str],
    classes: list[str] | None = None,
    joins: Sequence[JoinedOutput] = (),
    evaluation: ApProtocol | None = None,
) -> Manifest:
    """Return the manifest of `parts`, whose graph had `inputs` and `outputs`; `classes` name its labels.

    `joins` says how those of its outputs are joined that a pass took apart, `evaluation` how AP is measured. What
    `source` says of inputs besides the image goes with them. Raises InputError when there isn't exactly one image
    input.
    """
    given = source.get("inputs", {})
    images = [name for name in inputs if name not in given]
    if len(images) != 1:
        raise InputError(
            f"the graph has inputs {', '.join(inputs)}; the runtime feeds one image, and what source.inputs says of "
            "the others"
        )
    read = {name for part in parts for name in part.model.inputs}
    note = next((n for part in parts if (n := _note(part.model, NORMALISATION_NOTE))), None)
    if note is not None:
        margin = tuple(note.get("margin", (0, 0)))
        canvas = canvas.with_normalisation(tuple(note["mean"]), tuple(note["std"]), margin)
    return Manifest(
        recipe=recipe,
        source=source,
        classes=classes,
        detections=source.get("detections"),
        canvas=canvas.to_json(),
        normalise=note is not None,
        input=images[0],
        inputs={name: given[name] for name in inputs if name in given and name in read},
        outputs=outputs,
        joins=list(joins),
        masks=_mask_output(parts, canvas, outputs),
        parts=[describe_part(part) for part in parts],
        evaluation=evaluation,
    )


def describe_part(part: Part) -> PartEntry:
    """Return the manifest's entry for one part. Raises ModelError where it reads or writes what is no tensor."""
    graph = part.model.proto.graph
    batch = frozen_batch(part.model.proto)
    return PartEntry(
        name=part.name,
        device=part.device,
        accelerator=part.accelerator,
        file=f"{part.name}.onnx",
        batch=None if batch is None else Batch(size=batch.size, inputs=batch.inputs, outputs=batch.outputs),
        inputs={info.name: _tensor(info, part.name) for info in required_inputs(graph)},
        outputs={info.name: _tensor(info, part.name) for info in graph.output},
        sampled=_note(part.model, SAMPLED_NOTE) or {},
    )


def _mask_output(parts: list[Part], canvas: Canvas, outputs: list[str]) -> str | None:
    """Return the output with mask probabilities: the one a pass left a note of, else `masks` if not canvas-sized."""
    noted = next((n for part in parts if (n := _note(part.model, MASKS_NOTE))), None)
    if noted in outputs:
        return str(noted)
    declared = [info for part in parts for info in part.model.proto.graph.output if info.name == "masks"]
    shape = _tensor(declared[0], "masks").shape if declared and "masks" in outputs else None
    return None if shape is None or list(shape[-2:]) == [canvas.height, canvas.width] else "masks"


def _note(model: Model, key: str) -> Any:
    return next((json.loads(entry.value) for entry in model.proto.metadata_props if entry.key == key), None)


def _tensor(info: onnx.ValueInfoProto, place: str) -> Tensor:
    kind = info.type.tensor_type
    if not kind.elem_type:
        seen = info.type.WhichOneof("value") or "no type"
        raise ModelError(f"{place}: '{info.name}' has {seen}; inputs and outputs must be tensors of a known type")
    known = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    dtype = known.name
    if not is_numpys(known):
        raise ModelError(
            f"{place}: '{info.name}' is {dtype}, which NumPy doesn't have, so that it can't be handed over; "
            f"cast it inside, to float32 for example"
        )
    try:
        return Tensor(shape=declared_shape(info), dtype=dtype)
    except ValidationError as error:
        raise ModelError(f"{place}: '{info.name}': {files.first_fault(error)}") from error
