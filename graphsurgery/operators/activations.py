"""What the passes around SiLU and its piecewise linear cousin share: their slope, and which nodes a user excludes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.graph.names import matches

ALPHA, BETA = 1 / 6, 0.5  # HardSigmoid of torch and of HardSwish; ONNX's own default for alpha is 0.2


def is_torch_hard_sigmoid(node: gs.Node) -> bool:
    """Whether a HardSigmoid is min(max(x / 6 + 1 / 2, 0), 1), its attributes rounded to float32."""
    alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    return bool(abs(alpha - ALPHA) <= 4e-7 * ALPHA and abs(beta - BETA) <= 4e-7 * BETA)


def excluded(node: gs.Node, patterns: Sequence[str]) -> bool:
    """Whether a pattern with * and ? matches the name of `node` or of what it writes."""
    names = [node.name, *(tensor.name for tensor in node.outputs)]
    return any(matches(name, patterns) for name in names if name)
