"""Lower a BatchNormalization that stands by itself to a depthwise 1x1 Conv, which every NPU with MobileNet takes.

    x -> BatchNormalization(scale, bias, mean, variance) -> y
    x -> Conv(kernel 1x1, group = channels, weights scale / sqrt(variance + epsilon), bias) -> y

For the ones that `fold-batchnorm` leaves: run that first. Behind an Add, a Concat or a Relu there are no weights to
take them (DenseNet, pre-activation ResNet), and an accelerator that knows BatchNormalization only as a part of a Conv
hands them to the CPU. Every attribute is written out: VitisAI aborts on a Conv that leaves one at its default. The
weights are computed in float64 and rounded once. One limit: a Conv does not take a dimension of size 0, save the batch.

It does not fire when
1. it is in training mode, or writes the mean and the variance too; before operator set 7 it is unless `is_test` is 1
2. its parameters are not constant, or its scale is not finite
3. it normalises each element of a channel by itself (spatial 0, before opset 9)
4. its input has not 3 to 5 dimensions, or nothing tells their number
5. its elements are no floating-point numbers that a Conv takes, or nothing tells their type
6. there is nothing in its input: a dimension of size 0
7. the weights are too large or too small for their type
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.operators.channels import batchnorm, held
from graphsurgery.operators.operands import CONV_FLOATS
from graphsurgery.operators.requirements import require_dtype, require_shape
from graphsurgery.operators.windows import windowing
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerBatchnorm(NodePass):
    name = "lower-batchnorm"
    effect = "exact"
    matches = ("BatchNormalization",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        affine = batchnorm(node, edit.opset)
        data, channels, out = node.inputs[0], len(affine.scale), node.outputs[0].name
        _, _, *sizes = require_shape(data, edit, ranks=(3, 4, 5))
        dtype = require_dtype(data, edit, CONV_FLOATS)
        if 0 in (channels, *sizes):
            raise Refuse("its input is empty, which a Conv does not take")
        shape = (channels, 1, *[1] * len(sizes))
        weight, bias = held(affine.scale.reshape(shape), dtype, shape), held(affine.shift, dtype)
        inputs = [data, edit.constant(f"{out}_scale", weight), edit.constant(f"{out}_shift", bias)]
        edit.replace(node, "Conv", inputs, windowing(shape[2:], group=channels))
