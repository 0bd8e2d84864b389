"""Fold a BatchNormalization into the weights of the layer before it, or of the Conv behind it.

    x -> Conv(W, b) -> BatchNormalization -> y  ->  x -> Conv(W', b') -> y      ConvTranspose and Gemm likewise
    x -> BatchNormalization -> Conv(W, b) -> y  ->  x -> Conv(W', b') -> y      where the Conv does not pad

In inference it is a multiplication and an addition per channel, which a layer with weights does for free. NPU
compilers fold it themselves, but only the plain case; what they leave takes a pass over the tensor of its own, and
a quantizer that sees it apart calibrates a tensor that then does not exist. The layer before it is tried first. A
Conv behind it takes the shift only without padding: what it pads is zero, and the shift would have to reach it. The
new weights are computed in float64 and rounded once.

It does not fire when
1. it is in training mode, or writes the mean and the variance too; before operator set 7 it is unless `is_test` is 1
2. its parameters are not constant, or its scale is not finite
3. it normalises each element of a channel by itself (spatial 0, before opset 9)
4. neither what writes its input is a Conv, ConvTranspose or Gemm, nor what reads its output a Conv
5. the tensor between them is read elsewhere, or is a graph output
6. the weights or the bias of that layer are not constant, or not floating-point numbers
7. the Conv behind it pads, or may pad, while the shift is not zero
8. the folded weights are too large or too small for their type
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.graph import consumers, is_op, producer
from graphsurgery.operators.channels import Affine, batchnorm, fold_in, fold_out
from graphsurgery.operators.operands import only_reader
from graphsurgery.operators.requirements import require_read_once
from graphsurgery.operators.windows import window_of
from graphsurgery.rewrite import Editor, NodePass, Refuse


class FoldBatchnorm(NodePass):
    name = "fold-batchnorm"
    effect = "exact"
    matches = ("BatchNormalization",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        affine = batchnorm(node, edit.opset)
        try:
            return _into_what_writes(node, affine, edit)
        except Refuse as refusal:
            before = refusal.reason
        try:
            return _into_what_reads(node, affine, edit)
        except Refuse as refusal:
            raise Refuse(f"before it: {before}; behind it: {refusal.reason}") from None


def _into_what_writes(node: gs.Node, affine: Affine, edit: Editor) -> None:
    data = node.inputs[0]
    layer = producer(data)
    if layer is None or not is_op(layer, "Conv", "ConvTranspose", "Gemm"):
        raise Refuse("no Conv, ConvTranspose or Gemm")
    require_read_once(data, edit)
    folded = fold_out(layer, affine)
    if edit.bypass(node, data, holds=node.outputs[0]):
        folded.put(layer, edit)


def _into_what_reads(node: gs.Node, affine: Affine, edit: Editor) -> None:
    out = node.outputs[0]
    readers = consumers(out)
    if not readers or not is_op(readers[0], "Conv") or readers[0].inputs[0] is not out:
        raise Refuse("no Conv")
    if only_reader(out, edit) is None:
        raise Refuse("others than the Conv read it too, or it is a graph output")
    conv = readers[0]
    folded = fold_in(conv, affine)
    if affine.shifts:
        window = window_of(conv, edit)
        if window is None or window.padded:
            raise Refuse("the Conv pads with zeros, which the shift does not reach")
    if edit.bypass(node, node.inputs[0], holds=node.inputs[0]):
        folded.put(conv, edit)
