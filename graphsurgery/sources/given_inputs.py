"""Inputs besides the image: what a recipe says that they always are becomes part of the graph.

RT-DETR's `orig_target_sizes`, Paddle's `im_shape` and `scale_factor`, DETR's `pixel_mask`: with the size of the canvas,
a scale of 1 and a mask of ones the network gives boxes in pixels of the canvas, as any other does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, ValueInfoProto, numpy_helper

from graphsurgery.errors import InputError, did_you_mean
from graphsurgery.text import shortened

CANVAS = "canvas"  # stands for its height and width
_MOST_ELEMENTS = 2**25


def require_inputs(model: ModelProto, given: Mapping[str, Any], place: str) -> None:
    """Raise InputError for a name that is no input of the graph."""
    names = [value.name for value in model.graph.input]
    for name in given:
        if name not in names:
            hint = did_you_mean(name, names)
            raise InputError(f"source.inputs: {place} has no input '{name}' (there is {', '.join(names)}).{hint}")


def give(model: ModelProto, given: Mapping[str, Any], canvas: tuple[int, int]) -> None:
    """Make inputs of `model` constants: a number, a list of numbers, or `canvas`, in the type and shape of the input.

    `canvas` is its height and width, which an input of three or more dimensions has where it leaves its own open.
    Raises InputError for a value that does not fit.
    """
    infos = {value.name: value for value in model.graph.input}
    for name, value in given.items():
        array = _array(infos[name], value, canvas)
        stored = {tensor.name for tensor in model.graph.initializer}
        if name in stored:
            model.graph.initializer.remove(next(each for each in model.graph.initializer if each.name == name))
        model.graph.initializer.append(numpy_helper.from_array(array, name))
        model.graph.input.remove(infos[name])
    model.ir_version = max(model.ir_version, 4)  # before, an initializer had to be an input too


def _array(info: ValueInfoProto, value: Any, canvas: tuple[int, int]) -> npt.NDArray[Any]:
    tensor = info.type.tensor_type
    if not tensor.elem_type:
        raise InputError(f"source.inputs: '{info.name}' is no tensor of a known type; only tensors can be given")
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    try:
        array = np.asarray(canvas if value == CANVAS else value, np.float64)
    except (ValueError, TypeError) as error:
        said = shortened(str(value), 60)
        raise InputError(f"source.inputs: '{info.name}' is {said}; give a number, numbers or canvas") from error
    shape = _shape(info, array, canvas)
    if int(np.prod(shape, dtype=np.float64)) > _MOST_ELEMENTS:
        raise InputError(f"source.inputs: '{info.name}' is of {list(shape)}, more than {_MOST_ELEMENTS} elements")
    with np.errstate(all="ignore"):
        typed = array.astype(dtype)
    if not np.array_equal(typed.astype(np.float64), array) and dtype.kind in "biu":
        raise InputError(f"source.inputs: '{info.name}' is {dtype}, which does not hold {shortened(str(value), 60)}")
    try:
        return np.ascontiguousarray(np.broadcast_to(typed, shape))
    except ValueError as error:
        raise InputError(
            f"source.inputs: '{info.name}' is {list(shape)}; {shortened(str(value), 60)} does not fit"
        ) from error


def _shape(info: ValueInfoProto, array: npt.NDArray[Any], canvas: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of an input; what it leaves open is as in `array`, the canvas' in maps, and 1 for the batch."""
    if not info.type.tensor_type.HasField("shape"):
        return array.shape
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim]
    shape = []
    for place, size in enumerate(dims, start=-len(dims)):
        own = array.shape[place] if array.ndim >= -place else 1
        if size is not None:
            shape.append(size)
        elif own != 1 or len(dims) < 3 or place < -2:
            shape.append(own)
        else:
            shape.append(canvas[place + 2])
    return tuple(shape)
