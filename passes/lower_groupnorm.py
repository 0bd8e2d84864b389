"""Lower GroupNormalization to InstanceNormalization over the groups, which compilers have had for longer.

    opset 18:  x -> Reshape [0, G, -1] -> InstanceNormalization(scale, bias) -> Reshape [0, C, H, W]
    opset 21:  x -> Reshape [0, G, -1] -> InstanceNormalization(1, 0) -> Reshape [0, C, H, W] -> Mul(scale) -> Add(bias)

G is `num_groups`. Until operator set 20 scale and bias have one value per group, from 21 on one per channel. Sizes
behind the batch that are known are written into the shapes, so that an empty batch works; others are taken from
Shape(x). From 21 on float16 is normalised in float32, between two Casts, as `stash_type` demands.

It does not fire when
1. the elements are no floating-point numbers of NumPy's, or nothing tells
2. the statistics have another type than float32 and than the elements (`stash_type`), or would lose precision by it
3. nothing tells the rank of the input, or it has no elements
4. the channels can't be split into the groups, or scale or bias have another shape than they must
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant
from graphsurgery.operators.operands import FLOATS
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class LowerGroupnorm(NodePass):
    """It has no options."""

    name = "lower-groupnorm"
    effect = "exact"
    matches = ("GroupNormalization",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        (x, scale, bias), out = node.inputs, node.outputs[0]
        groups, per_group = int(attribute(node, "num_groups", 0)), edit.opset < 21
        dtype, shape = edit.dtype(x), edit.shape(x)
        if dtype is None or dtype.name not in FLOATS:
            raise Refuse(f"its elements are {dtype or 'of unknown type'}, not {', '.join(FLOATS)}")
        kind = _type_of_statistics(node, dtype, per_group)
        if kind is None:
            raise Refuse(f"its statistics have another type than its {dtype} elements")
        if shape is None or len(shape) < 2:
            raise Refuse("nothing tells the rank of its input, or that there are channels")
        known = [size for size in shape[1:] if isinstance(size, int)]
        static = len(known) == len(shape) - 1
        if not all(size > 0 for size in known):
            raise Refuse(f"an input of shape {shape} has no elements")
        channels = shape[1] if isinstance(shape[1], int) else None
        if groups < 1 or (channels is not None and channels % groups):
            raise Refuse(f"{shape[1]} channels can't be split into {groups} groups")
        wanted = groups if per_group else channels
        if not all(_may_be([wanted], edit.shape(tensor)) for tensor in (scale, bias)):
            raise Refuse(f"its scale or bias is not of shape {[wanted]}")

        hint = out.name
        wide = x if kind == dtype else _cast(x, kind, f"{hint}_{kind}", edit)
        rows = edit.constant(f"{hint}_groups", [0, groups, math.prod(known) // groups if static else -1])
        grouped = edit.emit("Reshape", [wide, rows], hint=f"{hint}_grouped", dtype=kind)
        own = [scale, bias]
        if not per_group:
            own = [
                edit.constant(f"{hint}_ones", np.ones(groups, kind)),
                edit.constant(f"{hint}_zeros", np.zeros(groups, kind)),
            ]
        epsilon = {"epsilon": float(attribute(node, "epsilon", 1e-5))}
        normal = edit.emit("InstanceNormalization", [grouped, *own], epsilon, hint=f"{hint}_normal", dtype=kind)
        if static:
            size: gs.Tensor = edit.constant(f"{hint}_size", [0, *known])
        else:
            size = edit.emit("Shape", [x], hint=f"{hint}_size", dtype=np.int64)
        if per_group:
            return edit.replace(node, "Reshape", [normal, size])
        spread = edit.emit("Reshape", [normal, size], hint=f"{hint}_spread", dtype=kind, shape=shape)
        if kind != dtype:
            spread = _cast(spread, dtype, f"{hint}_{dtype}", edit)
        scale, bias = (_per_channel(tensor, len(shape), edit) for tensor in (scale, bias))
        scaled = edit.emit("Mul", [spread, scale], hint=f"{hint}_scaled", dtype=dtype, shape=shape)
        edit.replace(node, "Add", [scaled, bias])


def _type_of_statistics(node: gs.Node, dtype: np.dtype[Any], per_group: bool) -> np.dtype[Any] | None:
    """Return the type to normalise in; None where it is neither the elements' own nor float32 for float16."""
    if per_group:
        return dtype
    stash = attribute(node, "stash_type", int(onnx.TensorProto.FLOAT))
    if stash == onnx.helper.np_dtype_to_tensor_dtype(dtype):
        return dtype
    return np.dtype(np.float32) if stash == onnx.TensorProto.FLOAT and dtype == np.float16 else None


def _cast(tensor: gs.Tensor, dtype: np.dtype[Any], hint: str, edit: Editor) -> gs.Variable:
    to = int(onnx.helper.np_dtype_to_tensor_dtype(dtype))
    return edit.emit("Cast", [tensor], {"to": to}, hint=hint, dtype=dtype, shape=edit.shape(tensor))


def _may_be(wanted: Sequence[int | None], shape: Sequence[int | str | None] | None) -> bool:
    """Whether a tensor of `shape` may have the sizes that are `wanted`, as far as both are known."""
    if shape is None:
        return True
    pairs = zip(wanted, shape, strict=False)
    return len(shape) == len(wanted) and all(
        a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in pairs
    )


def _per_channel(tensor: gs.Tensor, rank: int, edit: Editor) -> gs.Tensor:
    """Return `tensor`, one value per channel, in the shape [C, 1, 1] that spreads over a tensor of `rank`."""
    shape, values = [-1] + [1] * (rank - 2), constant(tensor)
    if rank == 2:
        return tensor
    if values is not None:
        return edit.constant(tensor.name, values.reshape(shape))
    size = edit.constant(f"{tensor.name}_size", shape)
    return edit.emit("Reshape", [tensor, size], hint=f"{tensor.name}_column", dtype=tensor.dtype)
