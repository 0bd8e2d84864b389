"""Random inputs for a model, for what needs no image."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto


def random_inputs(model: ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Return seeded random values for the inputs of `model`; unknown dimensions become 2."""
    generator = np.random.default_rng(seed)
    constants = {tensor.name for tensor in model.graph.initializer}
    values = {}
    for info in model.graph.input:
        if info.name in constants:
            continue
        tensor = info.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else 2 for dim in tensor.shape.dim]
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        if dtype.kind == "f":
            values[info.name] = np.asarray(generator.standard_normal(shape), dtype=dtype)
        elif dtype.kind == "b":
            values[info.name] = np.asarray(generator.integers(0, 2, shape), dtype=dtype)
        else:
            values[info.name] = np.asarray(generator.integers(0, 5, shape), dtype=dtype)
    return values
