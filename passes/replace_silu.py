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
from graphsurgery.operators.activations import ALPHA, BETA, excluded, gated
from graphsurgery.operators.requirements import require_dtype, require_read_once
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class ReplaceSilu(NodePass):
    """`exclude` takes patterns (with * and ?) of names of nodes and outputs."""

    name = "replace-silu"
    effect = "approximate"
    matches = ("Mul", "Swish")

    exclude: tuple[str, ...] = ()

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        silu = gated(node, "Sigmoid")
        if silu is None and node.op != "Swish":
            return
        x = node.inputs[0] if silu is None else silu[0]
        slope = attribute(node, "alpha", 1.0) if silu is None else 1.0
        if excluded(node, self.exclude):
            raise Refuse("it is excluded by name")
        if silu is not None:
            require_read_once(silu[1].outputs[0], edit)
        if not slope > 0:
            raise Refuse(f"alpha is {slope:g}")
        require_dtype(x, edit, among=("float32", "float16"))
        if slope == 1 and edit.opset >= 14:
            return edit.replace(node, "HardSwish", [x])
        attrs = {"alpha": slope * ALPHA, "beta": BETA}
        edit.replace(node, "Mul", [x, edit.emit("HardSigmoid", [x], attrs, hint=f"{node.outputs[0].name}_gate")])
