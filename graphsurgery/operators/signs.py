"""Whether the elements of a tensor are never negative: what makes zero as good as the smallest number to a maximum."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant, is_op, producer
from graphsurgery.operators.operands import optional

_NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax")


def is_never_negative(tensor: gs.Tensor) -> bool:
    """Whether the operator that writes `tensor` gives no number below zero; NaN is left aside."""
    source = producer(tensor)
    return source is not None and (is_op(source, *_NEVER_NEGATIVE) or (is_op(source, "Clip") and _from_zero(source)))


def _from_zero(clip: gs.Node) -> bool:
    given = optional(clip, 1)
    low = attribute(clip, "min", None) if given is None else constant(given)
    return low is not None and bool(np.all(low >= 0))
