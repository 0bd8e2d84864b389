"""All that shape inference looks at where it infers one node, to tell that it has done so before."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from graphsurgery.graph.queries import STANDARD_DOMAINS
from graphsurgery.graph.view.origin import StoredValues

_PLAIN = (int, float, str, bytes)


def signature(
    node: gs.Node, opset: int, largest: int, known: Callable[[gs.Tensor], Hashable | None]
) -> Hashable | None:
    """Return what the types of the outputs of `node` follow from: two nodes with equal ones write the same types.

    `known` tells it of what another node writes or the graph is given. The values of initializers of up to `largest`
    elements belong to it. None where not all is known, as of an operator that ONNX doesn't define.
    """
    if node.domain not in STANDARD_DOMAINS:
        return None
    attributes = []
    for name, value in node.attrs.items():
        items = tuple(value) if isinstance(value, list) else (value,)
        if not all(type(item) in _PLAIN for item in items):
            return None
        attributes.append((name, isinstance(value, list), items, tuple(map(type, items))))
    reads = []
    for tensor in node.inputs:
        read = _stored(tensor, largest) if isinstance(tensor, gs.Constant) else known(tensor) if tensor.name else ()
        if read is None:
            return None
        reads.append(read)
    if not all(isinstance(tensor, gs.Variable) and tensor.type == "tensor_type" for tensor in node.outputs):
        return None
    writes = tuple((bool(tensor.name), tensor.dtype) for tensor in node.outputs)
    return opset, node.op, tuple(attributes), tuple(reads), writes


def _stored(tensor: gs.Constant, largest: int) -> Hashable | None:
    values: Any = tensor._values
    if tensor._export_dtype is not None or values.dtype is None or values.dtype == object:
        return None
    shape = tuple(values.shape)
    if math.prod(shape) > largest:
        return values.dtype, shape
    if isinstance(values, np.ndarray):
        return values.dtype, shape, values.tobytes()
    if isinstance(values, StoredValues):
        stored = values.tensor
        if stored.HasField("raw_data") and stored.data_location != TensorProto.EXTERNAL:
            return values.dtype, shape, stored.raw_data
    return None
