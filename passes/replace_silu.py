"""Replace SiLU by HardSwish, which is piecewise quadratic: no table, no exponential.

    x * Sigmoid(x)     ->  HardSwish(x)                                     from operator set 14 on
                       ->  x * HardSigmoid(x, alpha=1/6, beta=1/2)          before
    Swish(x)           ->  HardSwish(x)
    Swish(x, alpha)    ->  x * HardSigmoid(x, alpha=alpha/6, beta=1/2)

YOLOv5 and later use SiLU in every layer. The two differ by up to 0.1423 (at |x| = 3): expect to retrain or to
lose accuracy, and look at the report.

It does not fire when
1. `exclude` names the node (the Mul, or Swish) or what it writes
2. the Sigmoid is read by another node too, or is a graph output: it would have to stay
3. the elements are neither float32 nor float16 (ONNX Runtime has no other HardSwish), or nothing tells their type
4. alpha is not positive
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.activations import ALPHA, BETA, excluded
from graphsurgery.operators.pattern import Pattern
from graphsurgery.rewrite import Editor, NodePass, Refuse

_SILU = Pattern("Mul(x, Sigmoid(x))", "Swish(x, ...)")


@dataclass(frozen=True)
class ReplaceSilu(NodePass):
    """`exclude` takes patterns (with * and ?) of names of nodes and outputs."""

    name = "replace-silu"
    effect = "approximate"
    matches = _SILU.matches

    exclude: tuple[str, ...] = ()

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        match = _SILU.match(node, edit)
        if match is None:
            return
        if excluded(node, self.exclude):
            raise Refuse("it is excluded by name")
        match.require_private("what the Sigmoid writes is read elsewhere too, or is a graph output")
        x, slope = match["x"], attribute(node, "alpha", 1.0)
        if not slope > 0:
            raise Refuse(f"alpha is {slope:g}")
        match.require_type("x", types=["float32", "float16"])
        if slope == 1 and edit.opset >= 14:
            return edit.replace(node, "HardSwish", [x])
        attrs = {"alpha": slope * ALPHA, "beta": BETA}
        edit.replace(node, "Mul", [x, edit.emit("HardSigmoid", [x], attrs, hint=f"{node.outputs[0].name}_gate")])
