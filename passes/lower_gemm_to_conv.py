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
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant, consumers, is_op, producer
from graphsurgery.operators.operands import FLOATS, scaled
from graphsurgery.rewrite import Editor, NodePass, Refuse

_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
# Operators that treat every element of their first input alike, whatever its shape; other inputs are scalars.
_ELEMENTWISE = (
    *("Abs", "Celu", "Clip", "Dropout", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu"),
    *("Mish", "Neg", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu"),
)


@dataclass(frozen=True)
class LowerGemmToConv(NodePass):
    """It has no options."""

    name = "lower-gemm-to-conv"
    effect = "exact"
    matches = ("Gemm", "MatMul", *_ELEMENTWISE)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if node.op in _ELEMENTWISE:
            return _move_up(node, edit) if edit.opset >= 7 else None
        if edit.opset < 7:
            raise Refuse("the operator set is below 7")
        layer = _layer(node)
        if isinstance(layer, str):
            raise Refuse(layer)
        reason = _why_no_matrix(node, edit)
        if reason is not None:
            raise Refuse(reason)
        out, hint = node.outputs[0], node.outputs[0].name
        channels, size = layer.weight.shape
        image = _image(layer.data, size, edit)
        if image is None:
            image = _unsqueezed(layer.data, size, hint, edit)
        shape = edit.shape(image) or [None, size, 1, 1]
        kernel = [int(side) for side in shape[2:] if isinstance(side, int)]
        weight = layer.weight.reshape(channels, -1, *kernel)
        inputs = [image, edit.constant(f"{hint}_weight", weight)]
        if layer.bias is not None:
            inputs.append(edit.constant(f"{hint}_bias", layer.bias))
        attrs = {"dilations": [1, 1], "group": 1, "kernel_shape": kernel, "pads": [0] * 4, "strides": [1, 1]}
        sizes = [shape[0], channels, 1, 1]
        conv = edit.emit("Conv", inputs, attrs, hint=f"{hint}_conv", dtype=out.dtype or weight.dtype, shape=sizes)
        edit.replace(node, "Flatten", [conv], {"axis": 1})


@dataclass(frozen=True)
class _Layer:
    """data[N, K] times the transpose of weight[M, K], plus bias[M] in every row."""

    data: gs.Tensor
    weight: np.ndarray
    bias: np.ndarray | None


def _layer(node: gs.Node) -> _Layer | str:
    """Return what a Gemm or MatMul computes, or why it is no layer with constant weights."""
    weight = constant(node.inputs[1])
    if weight is None:
        return "its weight is not constant"
    if weight.ndim != 2:
        return f"its weight has rank {weight.ndim}, not 2"
    if weight.dtype.name not in FLOATS or not weight.size:
        return f"its weight is {weight.dtype.name}{list(weight.shape)}: no floating-point numbers, or none at all"
    if is_op(node, "MatMul"):
        return _Layer(node.inputs[0], weight.T, None)
    if attribute(node, "transA", 0):
        return "it transposes its data"
    scaled_weight = scaled(weight if attribute(node, "transB", 0) else weight.T, float(attribute(node, "alpha", 1.0)))
    if scaled_weight is None:
        return "alpha takes a weight out of the range of its type"
    beta = float(attribute(node, "beta", 1.0))
    if len(node.inputs) < 3 or not node.inputs[2].name or beta == 0:
        return _Layer(node.inputs[0], scaled_weight, None)
    added = constant(node.inputs[2])
    if added is None:
        return "what it adds is not constant"
    if (added.ndim > 1 and added.shape[0] != 1) or added.size not in (1, len(scaled_weight)):
        return "it adds another value to each row"
    bias = scaled(np.broadcast_to(added.ravel(), scaled_weight.shape[:1]), beta)
    if bias is None:
        return "beta takes a bias out of the range of its type"
    return _Layer(node.inputs[0], scaled_weight, bias)


def _why_no_matrix(node: gs.Node, edit: Editor) -> str | None:
    if is_op(node, "Gemm") or is_op(producer(node.inputs[0]), "Flatten"):
        return None
    shape = edit.shape(node.inputs[0])
    if shape is not None and len(shape) == 2:
        return None
    return f"its input is {'of unknown rank' if shape is None else f'of rank {len(shape)}, not 2'}"


def _image(matrix: gs.Tensor, size: int, edit: Editor) -> gs.Tensor | None:
    """Return the [N, C, H, W] that `matrix`, which is [?, size], was reshaped from, where C * H * W is `size`.

    Reshapes keep number and order of the elements, so that row n of the matrix then is image n.
    """
    tensor = matrix
    while (reshape := producer(tensor)) is not None and is_op(reshape, *_RESHAPES):
        tensor = reshape.inputs[0]
        shape = edit.shape(tensor) or []
        sides = [side for side in shape[1:] if isinstance(side, int) and side > 0]
        if len(shape) == 4 and len(sides) == 3 and math.prod(sides) == size:
            return tensor
    return None


def _unsqueezed(matrix: gs.Tensor, size: int, hint: str, edit: Editor) -> gs.Tensor:
    rows = (edit.shape(matrix) or [None])[0]
    old = edit.opset < 13
    return edit.emit(
        "Unsqueeze",
        [matrix] if old else [matrix, edit.constant(f"{hint}_axes", [2, 3])],
        {"axes": [2, 3]} if old else {},
        hint=f"{hint}_image",
        dtype=matrix.dtype,
        shape=[rows, size, 1, 1],
    )


def _move_up(node: gs.Node, edit: Editor) -> None:
    """Let an elementwise operator between a Flatten and a layer read what the Flatten reads, and flatten after it."""
    reshape = producer(node.inputs[0])
    if reshape is None or not is_op(reshape, *_RESHAPES) or not _keeps_elements_apart(node):
        return
    before, out = reshape.inputs[0], node.outputs[0]
    if not any(_image(node.inputs[0], size, edit) is not None for size in _sizes_of_layers(out)):
        return
    moved = edit.emit(
        node.op,
        [before, *node.inputs[1:]],
        node.attrs,
        hint=f"{out.name}_image",
        dtype=out.dtype or before.dtype,
        shape=edit.shape(before),
    )
    edit.replace(node, reshape.op, [moved, *reshape.inputs[1:]], reshape.attrs)


def _keeps_elements_apart(node: gs.Node) -> bool:
    """Whether one output is all there is to an elementwise operator: a Dropout may train, or give its mask."""
    training = len(node.inputs) > 2 and bool(node.inputs[2].name)
    return is_op(node, *_ELEMENTWISE) and len(node.outputs) == 1 and not (is_op(node, "Dropout") and training)


def _sizes_of_layers(tensor: gs.Tensor) -> set[int]:
    """Return how many columns the layers have that read `tensor`, other operators that keep its elements between."""
    sizes, pending = set(), [tensor]
    while pending:
        current = pending.pop()
        for reader in consumers(current):
            if is_op(reader, "Gemm", "MatMul") and reader.inputs[0] is current:
                layer = _layer(reader)
                if not isinstance(layer, str):
                    sizes.add(layer.weight.shape[1])
            elif (is_op(reader, *_RESHAPES) or _keeps_elements_apart(reader)) and reader.inputs[0] is current:
                pending.extend(reader.outputs)
    return sizes
