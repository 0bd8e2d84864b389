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

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.operators.channels import FLOATS, batchnorm, held
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class LowerBatchnorm(NodePass):
    """No options."""

    name = "lower-batchnorm"
    effect = "exact"
    matches = ("BatchNormalization",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        affine = batchnorm(node, edit.opset)
        if isinstance(affine, str):
            raise Refuse(affine)
        data, channels = node.inputs[0], len(affine.scale)
        shape, dtype = edit.shape(data), edit.dtype(data)
        if shape is None or not 3 <= len(shape) <= 5:
            rank = "an unknown number of" if shape is None else str(len(shape))
            raise Refuse(f"its input has {rank} dimensions, not 3 to 5")
        if dtype is None or dtype.name not in FLOATS:
            kind = "of unknown type" if dtype is None else dtype.name
            raise Refuse(f"its elements are {kind}, not {', '.join(FLOATS)}")
        if channels == 0 or 0 in shape[2:]:
            raise Refuse("its input is empty, which a Conv does not take")
        ones = [1] * (len(shape) - 2)
        weight = held(affine.scale.reshape(channels, 1, *ones), dtype, (channels, 1, *ones))
        bias = held(affine.shift, dtype)
        if weight is None or bias is None:
            raise Refuse(f"the weights would leave the range of {dtype.name}")
        out = node.outputs[0].name
        inputs = [data, edit.constant(f"{out}_scale", weight), edit.constant(f"{out}_shift", bias)]
        attrs = {"dilations": ones, "group": channels, "kernel_shape": ones, "pads": [0] * 2 * len(ones)}
        edit.replace(node, "Conv", inputs, attrs | {"strides": ones})
