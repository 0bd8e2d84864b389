"""Lower a ConvTranspose whose windows do not overlap to a 1x1 Conv and DepthToSpace, for NPUs without a ConvTranspose.

    x [N, C, H, W] -> ConvTranspose(kernel k x k, strides k) -> y [N, M, kH, kW]
    x -> Conv(kernel 1x1) [N, M k k, H, W] -> DepthToSpace(blocksize k) -> y

Where the stride is the kernel, each pixel of the input becomes a block of its own in the output: the Conv computes the
k x k values of the block as channels, DepthToSpace lays them out. The mask head of Mask R-CNN has one of 2 x 2. No
product or sum changes, only the order in memory. Every attribute of the Conv is written out: VitisAI aborts on a
default.

It does not fire when
1. the kernel is not square, or is 1 x 1, or the strides are not its size: the windows overlap or leave gaps
2. it is not two-dimensional
3. it pads or dilates, adds to its output (output_padding), or names its size (output_shape)
4. it has groups
5. the weights or the bias are not constant, or not floating-point numbers
6. the opset is before 11 and the mode CRD, which DepthToSpace does not know there
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.channels import require_bias, require_weights
from graphsurgery.operators.slices import Link, chain
from graphsurgery.operators.windows import windowing
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class LowerConvtranspose(NodePass):
    """`mode` is that of DepthToSpace: CRD, which PyTorch calls PixelShuffle, or DCR, the only one TensorFlow has."""

    name = "lower-convtranspose"
    effect = "exact"
    matches = ("ConvTranspose",)

    mode: Literal["CRD", "DCR"] = "CRD"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        weight, bias = require_weights(node), require_bias(node)
        _require_blocks(node, weight.shape)
        if edit.opset < 11 and self.mode == "CRD":
            raise Refuse(f"DepthToSpace has no mode CRD in opset {edit.opset}; `mode: DCR` does without it")
        channels, filters, size, _ = weight.shape
        # DepthToSpace splits the number of a channel: into (filter, row, column) for CRD, (row, column, filter) for DCR
        order = (1, 2, 3, 0) if self.mode == "CRD" else (2, 3, 1, 0)
        blocks = weight.transpose(order).reshape(filters * size**2, channels, 1, 1)
        name = node.outputs[0].name
        parameters = [edit.constant(f"{name}_blocks", blocks)]
        if bias is not None:
            each = np.repeat(bias, size**2) if self.mode == "CRD" else np.tile(bias, size**2)
            parameters.append(edit.constant(f"{name}_bias", each))
        deep = Link("Conv", tuple(parameters), windowing([1, 1], group=1), hint="deep")
        known = {"mode": self.mode} if edit.opset >= 11 else {}
        chain(edit, node, node.inputs[0], [deep, Link("DepthToSpace", attrs={"blocksize": size} | known)])


def _require_blocks(node: gs.Node, shape: tuple[int, ...]) -> None:
    """Demand that each pixel of the input becomes a block of its own, given the shape of the weights."""
    kernel = list(shape[2:])
    strides = list(attribute(node, "strides", [1] * len(kernel)))
    if len(kernel) != 2:
        raise Refuse(f"it has {len(kernel)} dimensions, not 2")
    if kernel[0] != kernel[1] or kernel[0] < 2 or strides != kernel:
        windows = f"the kernel is {'x'.join(map(str, kernel))}, the strides are {'x'.join(map(str, strides))}"
        raise Refuse(f"{windows}: not a square of 2 or more, side by side")
    # auto_pad does not matter: where the stride is the kernel, each of its modes pads by nothing
    if any(attribute(node, "pads", [])) or any(d != 1 for d in attribute(node, "dilations", [])):
        raise Refuse("it pads or dilates")
    if any(attribute(node, "output_padding", [])) or "output_shape" in node.attrs:
        raise Refuse("it sets the size of its output (output_padding, output_shape)")
    if attribute(node, "group", 1) != 1:
        raise Refuse("it has groups")
    if 0 in shape:
        raise Refuse("its weights are empty")
