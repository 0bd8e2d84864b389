"""What the passes around SiLU and its piecewise linear cousin share: x * Gate(x), and which nodes a user excludes."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, is_op, producer

ALPHA, BETA = 1 / 6, 0.5  # HardSigmoid of torch and of HardSwish; ONNX's own default for alpha is 0.2


def gated(node: gs.Node, op: str) -> tuple[gs.Tensor, gs.Node] | None:
    """Return x and the gate where `node` is x * op(x), in any order; else None."""
    if not is_op(node, "Mul"):
        return None
    for x, factor in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        gate = producer(factor)
        if gate is not None and is_op(gate, op) and gate.inputs[0] is x:
            return x, gate
    return None


def is_torch_hard_sigmoid(node: gs.Node) -> bool:
    """Whether a HardSigmoid is min(max(x / 6 + 1 / 2, 0), 1), its attributes rounded to float32."""
    alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    return bool(abs(alpha - ALPHA) <= 4e-7 * ALPHA and abs(beta - BETA) <= 4e-7 * BETA)


def excluded(node: gs.Node, patterns: Sequence[str]) -> bool:
    """Whether a pattern with * and ? matches the name of `node` or of what it writes."""
    names = [node.name, *(tensor.name for tensor in node.outputs)]
    return any(fnmatch.fnmatchcase(name, pattern) for name in names if name for pattern in patterns)
