"""Scales and shifts, channel by channel, and how a node with weights takes them in.

    y = W(x) * scale + shift    the weights of output channel c times scale[c], the bias too, and shift[c] added to it
    y = W(x * scale + shift)    the weights of input channel c times scale[c], their sum times shift[c] in the bias

Computed in float64 and rounded once, to the type of the weights. Weights are never changed in place: others may share
them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant, is_op
from graphsurgery.operators.operands import FLOATS, optional
from graphsurgery.operators.requirements import require_constant
from graphsurgery.operators.training import why_it_trains
from graphsurgery.rewrite import Editor, Refuse

# Weights this small add nothing to anything: training leaves channels that died, down to the smallest float32.
_DEAD = 1e-30


@dataclass(frozen=True)
class Affine:
    """x * scale + shift in float64; of one element per channel, or still in the shape of the constant they are from."""

    scale: np.ndarray
    shift: np.ndarray

    @property
    def finite(self) -> bool:
        """Whether there is no Inf and no NaN in it."""
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.shift).all())

    @property
    def scales(self) -> bool:
        return bool((self.scale != 1).any())

    @property
    def shifts(self) -> bool:
        return bool((self.shift != 0).any())

    def along(self, axis: int, rank: int, channels: int) -> Affine | None:
        """Return what it does to `channels` along `axis` of a tensor of that rank.

        None where it varies along another axis too, or would give the tensor another shape.
        """
        shape = (1,) * (rank - self.scale.ndim) + self.scale.shape
        if len(shape) != rank or shape[axis] not in (1, channels) or np.prod(shape, dtype=np.int64) != shape[axis]:
            return None
        scale, shift = (np.broadcast_to(part.ravel(), channels) for part in (self.scale, self.shift))
        return Affine(scale, shift)


@dataclass(frozen=True)
class Weights:
    """New weights and bias of a node; None leaves them as they are, and a Gemm counts its new bias once (beta 1)."""

    weight: np.ndarray | None
    bias: np.ndarray | None

    def put(self, node: gs.Node, edit: Editor) -> None:
        stem = re.sub(r"_folded(_\d+)?$", "", node.inputs[1].name)
        if self.weight is not None:
            edit.set_input(node, 1, edit.constant(f"{stem}_folded", self.weight))
        if self.bias is not None:
            edit.set_input(node, 2, edit.constant(f"{stem}_bias", self.bias))
            if is_op(node, "Gemm") and attribute(node, "beta", 1.0) != 1:
                edit.set_attribute(node, "beta", 1.0)


def batchnorm(node: gs.Node, opset: int) -> Affine:
    """Return the scale and shift of a BatchNormalization; raise Refuse where it trains, or has none.

    Formula: the specification of BatchNormalization, (x - mean) / sqrt(variance + epsilon) * scale + bias.
    """
    reason: str | None = why_it_trains(node, opset)
    if reason is not None:
        raise Refuse(reason)
    if not attribute(node, "spatial", 1):
        raise Refuse("spatial is 0: it normalises each element of a channel by itself")
    values = [require_constant(tensor, "its parameters are") for tensor in node.inputs[1:5]]
    scale, bias, mean, variance = (np.ravel(value).astype(np.float64) for value in values)
    with np.errstate(all="ignore"):
        scale = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        found = Affine(scale, bias - mean * scale)
    if not found.finite:
        raise Refuse("its scale or shift is not finite")
    return found


def arithmetic(node: gs.Node | None) -> tuple[gs.Tensor, Affine] | None:
    """Return what an Add, Sub, Mul or Div with a constant reads and does; None for what is no such scale or shift.

    The constant keeps its shape, which says what it is broadcast along: see Affine.along.
    """
    if node is None or not is_op(node, "Add", "Sub", "Mul", "Div"):
        return None
    left, right = node.inputs
    value, data = constant(right), left
    if value is None and node.op != "Div":
        value, data = constant(left), right
    if value is None or value.dtype.name not in FLOATS or constant(data) is not None:
        return None
    value = value.astype(np.float64)
    ones, zeros = np.ones_like(value), np.zeros_like(value)
    if node.op == "Add":
        return data, Affine(ones, value)
    if node.op == "Sub":
        return data, Affine(ones, -value) if data is left else Affine(-ones, value)
    with np.errstate(all="ignore"):
        return data, Affine(value if node.op == "Mul" else 1 / value, zeros)


def require_weights(node: gs.Node) -> np.ndarray:
    """Return the weights of a Conv, ConvTranspose, Gemm or MatMul; raise Refuse where they can't be scaled."""
    weight = require_constant(node.inputs[1], f"the weights of the {node.op} are")
    if weight.dtype.name not in FLOATS:
        raise Refuse(f"the weights of the {node.op} are {weight.dtype.name}, not {', '.join(FLOATS)}")
    if weight.ndim < 2:
        raise Refuse(f"the weights of the {node.op} are a vector")
    require_bias(node)
    return weight


def require_bias(node: gs.Node) -> np.ndarray | None:
    """Return the bias of a Conv, ConvTranspose or Gemm as it is written, None where it has none; or raise Refuse."""
    bias = optional(node, 2)
    return None if bias is None else require_constant(bias, f"the bias of the {node.op} is")


def channels_out(node: gs.Node) -> int:
    """Return how many channels a node with constant weights writes: along the last axis of a Gemm or MatMul, else 1."""
    shape = require_weights(node).shape
    if is_op(node, "ConvTranspose"):
        return int(shape[1] * attribute(node, "group", 1))
    return int(shape[0 if is_op(node, "Conv") or attribute(node, "transB", 0) else -1])


def as_column(tensor: gs.Tensor, rank: int, edit: Editor) -> gs.Tensor:
    """Return `tensor`, one value per channel, in the shape [C, 1, 1] that spreads over a tensor of `rank`."""
    shape, values = [-1] + [1] * (rank - 2), constant(tensor)
    if rank == 2:
        return tensor
    if values is not None:
        return edit.constant(tensor.name, values.reshape(shape))
    size = edit.constant(f"{tensor.name}_size", shape)
    return edit.emit("Reshape", [tensor, size], hint=f"{tensor.name}_column")


def fold_out(node: gs.Node, affine: Affine) -> Weights:
    """Return the weights with which `node` writes what it writes now times scale plus shift, or raise Refuse."""
    weight, bias = require_weights(node), _bias(node)
    if affine.shifts and is_op(node, "MatMul"):
        raise Refuse("a MatMul has no bias to take the shift")
    view, beside = list(weight.shape), [1] * weight.ndim
    if is_op(node, "ConvTranspose"):  # its output channels are numbered group by group, its weights are not
        group = attribute(node, "group", 1)
        view = [group, view[0] // group, *view[1:]]
        beside = [group, 1, view[2], *beside[2:]]
    else:
        beside[0 if is_op(node, "Conv") or attribute(node, "transB", 0) else -1] = len(affine.scale)
    new = held(weight.reshape(view) * affine.scale.reshape(beside), weight.dtype, beside)
    total = held(affine.shift if bias is None else bias * affine.scale + affine.shift, weight.dtype)
    changed = affine.shifts or (affine.scales and bias is not None)
    return Weights(new.reshape(weight.shape) if affine.scales else None, total if changed else None)


def fold_in(conv: gs.Node, affine: Affine) -> Weights:
    """Return the weights with which a Conv makes of x what it makes of x * scale + shift now, or raise Refuse.

    Wherever its window reaches outside of x, the Conv must find what the affine makes zero.
    """
    weight, bias = require_weights(conv), _bias(conv)
    group = attribute(conv, "group", 1)
    view = [group, weight.shape[0] // group, *weight.shape[1:]]
    beside = [group, 1, view[2], *[1] * (weight.ndim - 2)]
    wide = weight.astype(np.float64).reshape(view)
    new = held(wide * affine.scale.reshape(beside), weight.dtype, [*view[:2], *[1] * (weight.ndim - 1)])
    moved = (wide * affine.shift.reshape(beside)).sum(axis=tuple(range(2, len(view)))).ravel()
    total = held(moved if bias is None else moved + bias, weight.dtype)
    return Weights(new.reshape(weight.shape) if affine.scales else None, total if affine.shifts else None)


def held(values: np.ndarray, dtype: np.dtype[Any], per: Sequence[int] = ()) -> np.ndarray:
    """Return float64 `values` in `dtype`; raise Refuse where its range does not hold them.

    That is where one overflows, or where the largest of a channel is so small that it loses digits. `per` is the shape
    of `values` with 1 in place of the axes that run inside a channel.
    """
    inside = tuple(axis for axis in range(values.ndim) if not per or per[axis] == 1)
    peak = np.max(np.abs(values), axis=inside, keepdims=True, initial=0.0)
    with np.errstate(all="ignore"):
        cast = np.asarray(values, dtype)
        lost = np.abs(cast - values) > np.finfo(dtype).eps * peak
    if not np.isfinite(cast).all() or (lost & (peak > _DEAD)).any():
        raise Refuse(f"the weights would leave the range of {dtype.name}")
    return cast


def _bias(node: gs.Node) -> np.ndarray | None:
    """Return the constant bias of `node` in float64, as often as a Gemm counts it; None where it has none."""
    bias = require_bias(node)
    return None if bias is None else bias.astype(np.float64) * attribute(node, "beta", 1.0)
