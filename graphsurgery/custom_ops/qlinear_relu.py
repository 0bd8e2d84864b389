"""QLinearRelu of ONNX Runtime on RISC-V: a Relu of integers, whose scale the output shares.

    x, int8 with zero point 0   ->   y = max(0, x), int8

Source: onnxruntime-riscv 0c8c9b4, systolic_runner/quantization/quantizer/operators/activation.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphsurgery.graph.expansion import CustomOperator, Tensor, Writer


@dataclass(frozen=True)
class QLinearRelu(CustomOperator):
    """It has int8 only: with uint8 the zero point does what a Relu does."""

    name = "QLinearRelu"
    domains = ("",)
    inputs = ("x",)
    opset = 10

    def expand(self, op: Writer, x: Tensor) -> Tensor:
        if op.dtype(x) not in (None, np.dtype(np.int8)):
            raise ValueError(f"input 'x' is {op.dtype(x)}; it takes int8")
        # Relu takes int8 from operator set 14 on; float32 holds each of these numbers
        return op.cast(op.Relu(op.cast(x, np.float32)), np.int8)
