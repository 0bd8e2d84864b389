"""Fold a scale or a shift per channel into the weights of the layer before it.

    x -> Conv(W, b) -> Mul(s) -> Add(t) -> y        ->  x -> Conv(W * s, b * s + t) -> y
    x -> ConvTranspose, Gemm -> Mul, Add, Sub, Div  ->  likewise
    x -> MatMul(W) -> Mul, Div -> y                 ->  x -> MatMul(W * s) -> y

For the constants [1, C, 1, 1] that a frozen batch norm leaves: torchvision's FrozenBatchNorm2d behind each Conv of a
detector's backbone, and so the Mask R-CNN of the ONNX model zoo. An NPU without a broadcasting Mul hands each of them
to the CPU, one with it spends a pass over the tensor. A scalar folds as well. The new weights are computed in float64
and rounded once.

It does not fire when
1. the constant varies along another axis than the channels ([C] behind a Conv stands along the width), or would give
   the output more channels or a higher rank
2. the constant is divided by the output, not the output by it
3. what the layer writes is read elsewhere, or is a graph output
4. the weights or the bias of the layer are not constant, or not floating-point numbers
5. the layer is a MatMul and the constant is added: it has no bias
6. the scale is not finite, or the folded weights are too large or too small for their type
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.graph import constant, is_op, producer
from graphsurgery.operators.channels import Affine, arithmetic, channels_out, fold_out, require_weights
from graphsurgery.operators.operands import LAYERS
from graphsurgery.operators.requirements import require_read_once
from graphsurgery.rewrite import Editor, NodePass, Refuse


class FoldAffine(NodePass):
    name = "fold-affine"
    effect = "exact"
    matches = ("Add", "Sub", "Mul", "Div")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if is_op(node, "Div") and constant(node.inputs[0]) is not None and is_op(producer(node.inputs[1]), *LAYERS):
            raise Refuse("the constant is divided by the output, which is no scale")
        found = arithmetic(node)
        if found is None:
            return
        data, affine = found
        layer = producer(data)
        if layer is None or not is_op(layer, *LAYERS):
            return
        require_read_once(data, edit)
        spread = _per_channel(layer, affine, edit)
        if spread is None:
            shape = list(affine.scale.shape)
            raise Refuse(f"its constant of shape {shape} is not one value per channel of the {layer.op}")
        if not spread.finite:
            raise Refuse("its scale is not finite")
        folded = fold_out(layer, spread)
        if edit.bypass(node, data, holds=node.outputs[0]):
            folded.put(layer, edit)


def _per_channel(layer: gs.Node, affine: Affine, edit: Editor) -> Affine | None:
    """Return what `affine` does to each channel that `layer` writes; None where that is no whole answer."""
    channels = channels_out(layer)
    if is_op(layer, "Conv", "ConvTranspose"):
        return affine.along(1, require_weights(layer).ndim, channels)
    if is_op(layer, "Gemm"):
        return affine.along(1, 2, channels)
    if affine.scale.ndim < 2:  # a MatMul writes one dimension at least
        return affine.along(-1, 1, channels)
    shape = edit.shape(layer.outputs[0])
    return None if shape is None else affine.along(-1, len(shape), channels)
