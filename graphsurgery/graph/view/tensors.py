"""Types and initializers of the view as protos: those of the file where no pass has changed them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, ValueInfoProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphsurgery.graph.outside import same_bytes
from graphsurgery.graph.view.origin import StoredValues, VariableOrigin, kept


def has_type(tensor: gs.Tensor) -> bool:
    """Whether there is something to say about `tensor`: a type and a shape, or what the file said."""
    return (tensor.dtype is not None and tensor.shape is not None) or unchanged(tensor) is not None


def unchanged(tensor: gs.Tensor) -> ValueInfoProto | None:
    """Return what the file said about `tensor`, if no pass has changed its type or shape since."""
    known = kept(tensor, VariableOrigin)
    if known is None:  # new, or an initializer
        return None
    shape = None if tensor.shape is None else list(tensor.shape)
    return known.info if (known.dtype, known.shape) == (tensor.dtype, shape) else None


def is_new(tensor: gs.Tensor) -> bool:
    """Whether `tensor` is an initializer that a pass has made."""
    return isinstance(tensor, gs.Constant) and kept(tensor, object) is None


def tensor_of(constant: gs.Constant) -> TensorProto:
    """Return the TensorProto of `constant`; the stored one when neither its values nor its name changed."""
    stored = kept(constant, StoredValues)  # None too where it was a computed tensor
    values = constant._values
    if isinstance(values, LazyValues):
        tensor: TensorProto = values.tensor
    elif stored is not None and _same(values, stored):
        tensor = stored.tensor
    else:
        array = np.asarray(values)
        if constant._export_dtype is not None:
            array = array.astype(constant._export_dtype)
        tensor = onnx.numpy_helper.from_array(array, constant.name)
        if stored is not None:
            if stored.tensor.doc_string:
                tensor.doc_string = stored.tensor.doc_string
            tensor.metadata_props.extend(stored.tensor.metadata_props)
        return tensor
    if tensor.name == constant.name:
        return tensor
    renamed = TensorProto()
    renamed.CopyFrom(tensor)
    renamed.name = constant.name
    return renamed


def _same(values: np.ndarray, stored: StoredValues) -> bool:
    if list(values.shape) != stored.shape or values.dtype != stored.dtype:
        return False
    original = stored.load()
    if values.dtype == object:
        return bool(np.array_equal(values, original))
    one, other = (np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in (values, original))
    return same_bytes(one, other)


def export_value(tensor: gs.Tensor, proto: ValueInfoProto) -> None:
    """Write name, type and shape of `tensor` into `proto`."""
    same = unchanged(tensor)
    if same is not None:
        proto.CopyFrom(same)
        proto.name = tensor.name
        return
    known = kept(tensor, VariableOrigin)
    if known is not None and known.info is not None:
        for descriptor, value in known.info.ListFields():
            if descriptor.name == "metadata_props":
                proto.metadata_props.extend(value)
            elif descriptor.name == "doc_string":
                proto.doc_string = value
    proto.name = tensor.name
    if tensor.dtype is None:
        return
    shape = None if tensor.shape is None else list(tensor.shape)
    proto.type.CopyFrom(onnx.helper.make_tensor_type_proto(elem_type(tensor.dtype), shape))


def elem_type(dtype: Any) -> int:
    """Return ONNX's number for an element type, which graphsurgeon lets a pass give as that number or NumPy's way."""
    return int(dtype) if isinstance(dtype, int) else int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
