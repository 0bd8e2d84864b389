"""Whether a node computes what it does in training; each operator set says it in another way."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant, is_op


def why_it_trains(node: gs.Node, opset: int) -> str | None:
    """Say why a BatchNormalization or a Dropout trains, or may; None where it is for inference, or another operator.

    Before operator set 7 both train unless `is_test` is written; ONNX Runtime has no kernel for these. Then a Dropout
    is for inference up to 11, from 12 on it has an input that says so; a BatchNormalization trains up to 13 when it
    writes more than one output, and from 14 on when `training_mode` is 1. A Dropout that drops nothing, ratio 0, does
    not count.
    """
    if is_op(node, "BatchNormalization"):
        return _normalization(node, opset)
    return _dropout(node, opset) if is_op(node, "Dropout") else None


def _normalization(node: gs.Node, opset: int) -> str | None:
    if opset < 7 and not attribute(node, "is_test", 0):
        return "it trains: is_test is 0, as it is before operator set 7 unless the node says otherwise"
    if attribute(node, "training_mode", 0):
        return "it is in training mode"
    if any(out.name for out in node.outputs[1:]):
        return "it writes the mean and the variance too, as in training mode"
    return None


def _dropout(node: gs.Node, opset: int) -> str | None:
    if opset < 7:
        keeps = attribute(node, "is_test", 0) or attribute(node, "ratio", 0.5) == 0
        return None if keeps else "it trains: is_test is 0"
    if opset < 12 or not _given(node, 2):
        return None
    ratio = constant(node.inputs[1]) if _given(node, 1) else np.float32(0.5)
    if ratio is not None and not np.any(ratio):
        return None
    training = constant(node.inputs[2])
    if training is None:
        return "its training_mode is not constant"
    return "it trains: training_mode is true" if np.any(training) else None


def _given(node: gs.Node, index: int) -> bool:
    return len(node.inputs) > index and bool(node.inputs[index].name)
