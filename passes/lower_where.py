"""Replace a Where whose condition is constant and the same everywhere by what it picks, for compilers without Where.

    Where(all true, a, b)   ->  a
    Where(all false, a, b)  ->  b
    where the other one is larger: Expand(a, its shape)

Exporters leave such masks behind once the size of the image is fixed. Nothing is computed: the same bits.

It does not fire when
1. the condition is computed, a caller may override it, or it is true here and false there, or empty
2. nothing tells the shape of what it picks or of what it writes
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.operators.requirements import require_constant
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LowerWhere(NodePass):
    name = "lower-where"
    effect = "exact"
    matches = ("Where",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        condition = require_constant(node.inputs[0], "its condition is")
        if not condition.size or condition.any() != condition.all():
            raise Refuse("its condition is not the same everywhere")
        picked, out = node.inputs[1 if condition.all() else 2], node.outputs[0]
        given, wanted = edit.static_shape(picked), edit.static_shape(out)
        if given is None or wanted is None:
            raise Refuse("nothing tells the shape of what it picks, or of what it writes")
        if given == wanted:
            edit.bypass(node, picked)
        else:
            edit.replace(node, "Expand", [picked, edit.constant(f"{out.name}_shape", list(wanted))])
