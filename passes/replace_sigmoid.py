"""Replace Sigmoid by HardSigmoid, which is piecewise linear: no table, no exponential.

    Sigmoid(x)  ->  HardSigmoid(x, alpha=1/6, beta=1/2)

With the default slope, torch's, the two differ by up to 0.0692 (at |x| = 1.32), and beyond |x| = 3 the result is 0
or 1: scores that differed there become equal, so exclude the Sigmoid that makes scores, or compare AP. alpha = 0.2 is
ONNX's and Keras's slope.

It does not fire when
1. `exclude` names the node or what it writes
2. the elements are neither float32 nor float16 (ONNX Runtime has no other HardSigmoid), or nothing tells their type
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.operators.activations import ALPHA, BETA, excluded
from graphsurgery.operators.requirements import require_dtype
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class ReplaceSigmoid(NodePass):
    """`alpha` is the slope, `beta` the value at 0; `exclude` takes patterns (*, ?) of names of nodes and outputs."""

    name = "replace-sigmoid"
    effect = "approximate"
    matches = ("Sigmoid",)

    alpha: float = ALPHA
    beta: float = BETA
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"alpha must be positive, not {self.alpha}")
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must lie between 0 and 1, not {self.beta}")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if excluded(node, self.exclude):
            raise Refuse("it is excluded by name")
        require_dtype(node.inputs[0], edit, among=("float32", "float16"))
        edit.replace(node, "HardSigmoid", list(node.inputs), {"alpha": float(self.alpha), "beta": float(self.beta)})
