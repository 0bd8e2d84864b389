"""Turn fully connected layers into convolutions, for NPUs that compute in [N, C, H, W] only.

    x[N,C,H,W] -> Flatten -> Gemm -> y        x -> Conv(kernel HxW) -> Flatten -> y
    x[N,K] -> Gemm -> y                       x -> Unsqueeze -> Conv(kernel 1x1) -> Flatten -> y
    x -> Flatten -> Relu -> Gemm              x -> Relu -> Flatten -> Gemm, and on as above

The last line moves the Flatten down, so that between two layers none is left: the box head of torchvision, Flatten,
Gemm, Relu, Gemm, Relu, Flatten and two Gemms, becomes Conv 7x7, Relu, Conv 1x1, Relu and two Convs 1x1 with a Flatten
each. Rockchip's compiler (rknn-toolkit2 2.5) leaves the Reshape in front of a Gemm to the CPU, and takes the Convs. Any
reshape that gives the layer's matrix counts as Flatten, and a MatMul as Gemm; `fuse-gemm` before this pass brings its
bias along. Every attribute of a Conv is written out: VitisAI aborts on one left at its default.

It does not fire when
1. the weight, or what a Gemm adds, is not constant
2. the Gemm transposes its data, or adds another value to each row
3. the input of a MatMul has another rank than 2, or nothing tells
4. the elements are no floating-point numbers, or there are none
5. alpha or beta would take a weight out of the range of its type
6. the operator set is below 7, where Gemm and Dropout mean something else
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, consumers, is_op, producer
from graphsurgery.operators.operands import FLOATS, optional, scaled
from graphsurgery.operators.requirements import require_constant, require_shape
from graphsurgery.operators.slices import Link, chain, on_axes
from graphsurgery.operators.windows import windowing
from graphsurgery.rewrite import Editor, NodePass, Refuse

_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
# Operators that treat every element of their first input alike, whatever its shape; other inputs are scalars.
_ELEMENTWISE = (
    *("Abs", "Celu", "Clip", "Dropout", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu"),
    *("Mish", "Neg", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu"),
)


class LowerGemmToConv(NodePass):
    name = "lower-gemm-to-conv"
    effect = "exact"
    matches = ("Gemm", "MatMul", *_ELEMENTWISE)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if node.op in _ELEMENTWISE:
            return _move_up(node, edit) if edit.opset >= 7 else None
        if edit.opset < 7:
            raise Refuse("the operator set is below 7")
        layer = _layer(node)
        if not is_op(node, "Gemm") and not is_op(producer(layer.data), "Flatten"):
            require_shape(layer.data, edit, ranks=[2])
        channels, size = layer.weight.shape
        hint, image = node.outputs[0].name, _image(layer.data, size, edit)
        data, kernel = image or (layer.data, [1, 1])
        links = [] if image else [replace(on_axes(edit, "Unsqueeze", hint, [2, 3]), hint="image")]
        parameters = [edit.constant(f"{hint}_weight", layer.weight.reshape(channels, -1, *kernel))]
        if layer.bias is not None:
            parameters.append(edit.constant(f"{hint}_bias", layer.bias))
        links.append(Link("Conv", tuple(parameters), windowing(kernel, group=1), "conv"))
        links.append(Link("Flatten", attrs={"axis": 1}))
        chain(edit, node, data, links)


@dataclass(frozen=True)
class _Layer:
    """data[N, K] times the transpose of weight[M, K], plus bias[M] in every row."""

    data: gs.Tensor
    weight: np.ndarray
    bias: np.ndarray | None


def _layer(node: gs.Node) -> _Layer:
    """Return what a Gemm or MatMul computes; raise Refuse where it is no layer with constant weights."""
    data, weight = node.inputs[0], require_constant(node.inputs[1], "its weight is")
    if weight.ndim != 2:
        raise Refuse(f"its weight has rank {weight.ndim}, not 2")
    if weight.dtype.name not in FLOATS or not weight.size:
        raise Refuse(
            f"its weight is {weight.dtype.name}{list(weight.shape)}: no floating-point numbers, or none at all"
        )
    if is_op(node, "MatMul"):
        return _Layer(data, weight.T, None)
    if attribute(node, "transA", 0):
        raise Refuse("it transposes its data")
    alpha, beta = float(attribute(node, "alpha", 1.0)), float(attribute(node, "beta", 1.0))
    scaled_weight = scaled(weight if attribute(node, "transB", 0) else weight.T, alpha)
    if scaled_weight is None:
        raise Refuse("alpha takes a weight out of the range of its type")
    given = optional(node, 2)
    if given is None or beta == 0:
        return _Layer(data, scaled_weight, None)
    added = require_constant(given, "what it adds is")
    if (added.ndim > 1 and added.shape[0] != 1) or added.size not in (1, len(scaled_weight)):
        raise Refuse("it adds another value to each row")
    bias = scaled(np.broadcast_to(added.ravel(), scaled_weight.shape[:1]), beta)
    if bias is None:
        raise Refuse("beta takes a bias out of the range of its type")
    return _Layer(data, scaled_weight, bias)


def _image(matrix: gs.Tensor, size: int, edit: Editor) -> tuple[gs.Tensor, list[int]] | None:
    """Return the [N, C, H, W], and H and W, that `matrix`, [?, size], was reshaped from, where C * H * W is `size`.

    Reshapes keep number and order of the elements, so that row n of the matrix then is image n.
    """
    tensor = matrix
    while (reshape := producer(tensor)) is not None and is_op(reshape, *_RESHAPES):
        tensor = reshape.inputs[0]
        shape = edit.shape(tensor) or []
        sides = [side for side in shape[1:] if isinstance(side, int) and side > 0]
        if len(shape) == 4 and len(sides) == 3 and math.prod(sides) == size:
            return tensor, sides[1:]
    return None


def _move_up(node: gs.Node, edit: Editor) -> None:
    """Let an elementwise operator between a Flatten and a layer read what the Flatten reads, and flatten after it."""
    reshape = producer(node.inputs[0])
    if reshape is None or not is_op(reshape, *_RESHAPES) or not _keeps_elements_apart(node):
        return
    before, out = reshape.inputs[0], node.outputs[0]
    if not any(_image(node.inputs[0], size, edit) is not None for size in _sizes_of_layers(out)):
        return
    moved = edit.emit(node.op, [before, *node.inputs[1:]], node.attrs, hint=f"{out.name}_image")
    edit.replace(node, reshape.op, [moved, *reshape.inputs[1:]], reshape.attrs)


def _keeps_elements_apart(node: gs.Node) -> bool:
    """Whether one output is all there is to an elementwise operator: a Dropout may train, or give its mask."""
    may_train = is_op(node, "Dropout") and optional(node, 2) is not None
    return is_op(node, *_ELEMENTWISE) and len(node.outputs) == 1 and not may_train


def _sizes_of_layers(tensor: gs.Tensor) -> set[int]:
    """Return how many columns the layers have that read `tensor`, other operators that keep its elements between."""
    sizes, pending = set(), [tensor]
    while pending:
        current = pending.pop()
        for reader in consumers(current):
            if is_op(reader, "Gemm", "MatMul") and reader.inputs[0] is current:
                with suppress(Refuse):
                    sizes.add(_layer(reader).weight.shape[1])
            elif (is_op(reader, *_RESHAPES) or _keeps_elements_apart(reader)) and reader.inputs[0] is current:
                pending.extend(reader.outputs)
    return sizes
