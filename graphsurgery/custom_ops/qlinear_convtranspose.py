"""QLinearConvTranspose of ONNX Runtime on RISC-V: a ConvTranspose of integers, as QLinearConv is a Conv.

    x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B
    -> sum = ConvTranspose(x - x_zero_point, w - w_zero_point) + B
       y = saturate(round(sum * x_scale * w_scale / y_scale) + y_zero_point)

Numbers are int8 or uint8, the bias int32, each scale is one number, and round takes a tie to the even one. Sums are
exact up to 2^24, which takes more than 1,000 products of int8. The kernel for the array, which its authors mark as
broken, rounds to 8 bits before the products of one element are added up, and leaves the bias out. That is not imitated.

Source: onnxruntime-riscv 0c8c9b4, the operator's schema and core/providers/systolic/nn/qlinearconvtranspose.cc.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from graphsurgery.graph.expansion import CustomOperator, Tensor, Writer


@dataclass(frozen=True)
class QLinearConvTranspose(CustomOperator):
    """Its attributes are those of ConvTranspose; one that is empty is left out."""

    name = "QLinearConvTranspose"
    domains = ("",)
    inputs = ("x", "x_scale", "x_zero_point", "w", "w_scale", "w_zero_point", "y_scale", "y_zero_point", "B?")
    opset = 10

    auto_pad: Literal["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"] = "NOTSET"
    dilations: tuple[int, ...] = ()
    group: int = 1
    kernel_shape: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    def expand(
        self,
        op: Writer,
        x: Tensor,
        x_scale: Tensor,
        x_zero_point: Tensor,
        w: Tensor,
        w_scale: Tensor,
        w_zero_point: Tensor,
        y_scale: Tensor,
        y_zero_point: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        image = op.cast(x, np.float32) - op.cast(x_zero_point, np.float32)
        weight = op.cast(w, np.float32) - op.cast(w_zero_point, np.float32)
        added = () if bias is None else (op.cast(bias, np.float32),)
        options = {each.name: getattr(self, each.name) for each in fields(self)}
        given = {name: value for name, value in options.items() if value != ()}
        total = op.ConvTranspose(image, weight, *added, **given)
        return op.QuantizeLinear(total * (x_scale * w_scale), y_scale, y_zero_point)
