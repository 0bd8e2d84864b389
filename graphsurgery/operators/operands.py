"""What passes that fuse or unfold arithmetic ask of its operands."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import constant, consumers
from graphsurgery.rewrite import Editor

FLOATS = ("float16", "float32", "float64")
CONV_FLOATS = ("float16", "float32")  # ONNX Runtime, which judges, convolves, pools and normalises no others
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # what multiplies by weights


def scalar(tensor: gs.Tensor) -> float | None:
    """Return the one finite number that `tensor` always holds, whatever its rank; None where it isn't one."""
    if isinstance(tensor, gs.Constant) and math.prod(tensor.shape) != 1:
        return None  # without reading a weight
    value = constant(tensor)
    if value is None or value.size != 1 or value.dtype.kind not in "fiu":
        return None
    number = float(value.ravel()[0])
    return number if math.isfinite(number) else None


def optional(node: gs.Node, index: int) -> gs.Tensor | None:
    """Return the input at `index`; None where it is left out."""
    return node.inputs[index] if len(node.inputs) > index and node.inputs[index].name else None


def rank(tensor: gs.Tensor) -> int:
    """Return the number of dimensions of a constant."""
    value = constant(tensor)
    return 0 if value is None else value.ndim


def only_reader(tensor: gs.Tensor, edit: Editor) -> gs.Node | None:
    """Return the node that alone reads `tensor`, and once; None where there are others, or it is a graph output."""
    readers = consumers(tensor)
    return readers[0] if len(readers) == 1 and not edit.is_output(tensor) else None


def scaled(values: np.ndarray, factor: float) -> np.ndarray | None:
    """Return `values` times `factor` in their own type, rounded once.

    None where an element would overflow, vanish or become subnormal: it would lose more than a rounding.
    """
    if factor == 1:
        return values
    with np.errstate(all="ignore"):
        product = np.asarray(values.astype(np.float64) * factor, values.dtype)
    moved = product[np.isfinite(values) & (values != 0)]
    fine = np.isfinite(moved) & (np.abs(moved) >= np.finfo(values.dtype).smallest_normal)
    return product if fine.all() else None
