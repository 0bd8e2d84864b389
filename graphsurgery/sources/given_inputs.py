"""Inputs besides the image, as a recipe gives them: what is the same for all images becomes part of the graph.

RT-DETR's `orig_target_sizes`, Paddle's `im_shape` and `scale_factor`, DETR's `pixel_mask`: with the size of the canvas,
a scale of 1 and a mask of ones the network gives boxes in pixels of the canvas, as any other does. What follows from
the image (`images.other_inputs`) stays an input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, ValueInfoProto, numpy_helper

from graphsurgery.errors import InputError, did_you_mean
from graphsurgery.graph.protos import declared_shape
from graphsurgery.images.other_inputs import OtherInput
from graphsurgery.images.placement import Placement, Size
from graphsurgery.text import shortened


def require_inputs(model: ModelProto, given: object, place: str) -> None:
    """Raise InputError for a name that is no input of the graph."""
    if not isinstance(given, Mapping):
        raise InputError(f"source.inputs: give name: value for inputs of {place}, not {shortened(str(given), 60)}")
    names = [value.name for value in model.graph.input]
    for name in given:
        if name not in names:
            hint = did_you_mean(str(name), names)
            raise InputError(f"source.inputs: {place} has no input '{name}' (there is {', '.join(names)}).{hint}")


def give(model: ModelProto, given: Mapping[str, Any], canvas: Size, rows: int) -> tuple[OtherInput, ...]:
    """Make inputs of `model` constants, and return the others that are `given`, which follow from the image.

    `canvas` is its height and width, `rows` the batch for an input that leaves its own open. Raises InputError for a
    value that doesn't fit.
    """
    infos = {value.name: value for value in model.graph.input}
    follow = []
    for name, value in given.items():
        try:
            other = _other_input(infos[name], value)
            other.require_fit(canvas)
        except InputError as error:
            raise InputError(f"source.{error}") from error
        if other.follows:
            follow.append(other)
            continue
        stored = {tensor.name for tensor in model.graph.initializer}
        if name in stored:
            model.graph.initializer.remove(next(each for each in model.graph.initializer if each.name == name))
        constant = numpy_helper.from_array(other.of(Placement.whole(canvas), rows), name)
        model.graph.initializer.append(constant)
        model.graph.input.remove(infos[name])
    model.ir_version = max(model.ir_version, 4)  # before, an initializer had to be an input too
    return tuple(follow)


def _other_input(info: ValueInfoProto, value: Any) -> OtherInput:
    tensor = info.type.tensor_type
    if not tensor.elem_type:
        raise InputError(f"inputs.{info.name}: is no tensor of a known type; only tensors can be given")
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return OtherInput(info.name, value, declared_shape(info), dtype)
