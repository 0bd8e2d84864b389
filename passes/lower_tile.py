"""Turn a Tile into Concats of copies, one for each axis that it repeats, for compilers without Tile.

    Tile(x, repeats [1, 3, 1])  ->  Concat(x, x, x) along axis 1
    Tile(x, repeats [2, 1, 2])  ->  Concat(x', x') along axis 2 of x' = Concat(x, x) along axis 0
    Tile(x, repeats [1, 1, 1])  ->  x

Between an input and an output of the model, one that repeats nothing becomes an Identity.

It does not fire when
1. the repeats are computed, or a caller may override them
2. it repeats an axis 0 times, so that nothing is left, or more than 64 times
3. the operator set is below 6, where Tile had other inputs
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.operators.requirements import require_constant
from graphsurgery.rewrite import Editor, NodePass, Refuse

_MOST_COPIES = 64  # a Concat of more inputs is no help to any compiler


class LowerTile(NodePass):
    name = "lower-tile"
    effect = "exact"
    matches = ("Tile",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        if edit.opset < 6:
            raise Refuse(f"Tile has other inputs in operator set {edit.opset}")
        repeats = [int(count) for count in require_constant(node.inputs[1], "its repeats are").ravel()]
        if any(not 1 <= count <= _MOST_COPIES for count in repeats):
            raise Refuse(f"it repeats by {repeats}, not 1 to {_MOST_COPIES} times")
        data = node.inputs[0]
        repeated = [axis for axis, count in enumerate(repeats) if count > 1]
        if not repeated:
            edit.bypass(node, data)
            return
        *inner, last = repeated
        for axis in inner:
            hint = f"{node.outputs[0].name}_repeated"
            data = edit.emit("Concat", [data] * repeats[axis], {"axis": axis}, hint=hint)
        edit.replace(node, "Concat", [data] * repeats[last], {"axis": last})
