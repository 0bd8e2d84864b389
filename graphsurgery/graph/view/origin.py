"""What gs objects remember of the protos they were made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphsurgery.errors import ModelError

Scope = Mapping[str, gs.Tensor]


class StoredValues(LazyValues):  # type: ignore[misc]  # graphsurgeon has no type hints
    """The values of an initializer that have not been asked for yet.

    `folder` is where external data lies; None for a model that is not from a file.
    """

    def __init__(self, tensor: TensorProto, folder: Path | None) -> None:
        self.tensor = tensor
        self.folder = folder
        self.shape = list(tensor.dims)
        self.dtype = numpy_dtype(tensor.data_type)
        self.nbytes = int(np.prod(tensor.dims, dtype=np.int64)) * (self.dtype.itemsize if self.dtype else 1)

    def load(self) -> np.ndarray:
        """Return a copy of the values. Raises ModelError when they are not there or do not fit the shape."""
        name = self.tensor.name
        if self.tensor.data_location == TensorProto.EXTERNAL and self.folder is None:
            raise ModelError(f"initializer '{name}' has external data, but the model is not from a file")
        try:
            return np.array(onnx.numpy_helper.to_array(self.tensor, base_dir=str(self.folder or "")))
        except (OSError, ValueError, TypeError, onnx.checker.ValidationError) as error:
            raise ModelError(f"initializer '{name}': its values can't be read: {str(error).splitlines()[0]}") from error


@dataclass
class NodeOrigin:
    proto: NodeProto
    attrs: dict[str, tuple[Any, AttributeProto]]


@dataclass
class GraphOrigin:
    proto: GraphProto
    values: dict[str, ValueInfoProto]
    constants: list[gs.Constant]
    defaults: dict[str, TensorProto]
    read: set[int]  # ids of the constants that some node read when the graph came in

    @cached_property
    def written(self) -> set[str]:
        """Names that some node wrote when the graph came in."""
        return {name for node in self.proto.node for name in node.output}

    @cached_property
    def names(self) -> set[str]:
        """Names of all tensors that were nodes' outputs, inputs or initializers when the graph came in."""
        return self.written | {item.name for item in (*self.proto.input, *self.proto.initializer)}

    @cached_property
    def interface(self) -> set[str]:
        """Names of the inputs and outputs when the graph came in."""
        return {info.name for info in (*self.proto.input, *self.proto.output)}


def numpy_dtype(elem_type: int) -> np.dtype[Any] | None:
    if elem_type == TensorProto.UNDEFINED:
        return None
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    except KeyError as error:
        raise ModelError(f"element type {elem_type} is not one of this onnx ({onnx.__version__}); update it") from error
