"""Random inputs for a model, for what needs no image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from graphsurgery.errors import InputError

# Random integers are below this: they may be indices, and a small range hits every case.
_INTEGERS_BELOW = 5
_MAX_ELEMENTS = 1 << 26  # 0.5 GB as NumPy draws them


def random_inputs(model: ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Return seeded random values for the inputs of `model`; unknown dimensions become 2.

    Raises InputError for an input too large for that.
    """
    generator = np.random.default_rng(seed)
    constants = {tensor.name for tensor in model.graph.initializer}
    values = {}
    for info in model.graph.input:
        if info.name in constants:
            continue
        tensor = info.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else 2 for dim in tensor.shape.dim]
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        values[info.name] = random_values(generator, info.name, shape, dtype)
    return values


def random_values(generator: np.random.Generator, name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    """Draw the input `name`: normally distributed numbers, small whole ones, or truth values. Raises InputError."""
    if math.prod(shape) > _MAX_ELEMENTS:
        raise InputError(f"input '{name}' has the shape {list(shape)}, too large to draw; give --inputs")
    if dtype.kind == "f":
        return np.asarray(generator.standard_normal(shape), dtype=dtype)
    return np.asarray(generator.integers(0, 2 if dtype.kind == "b" else _INTEGERS_BELOW, shape), dtype=dtype)
