"""Drop Dropout where it only passes its input on, as it does in inference: NPU compilers have no kernel for it.

    x -> Dropout(ratio 0.5) -> y   ->   x, read as y

Operator sets 7 to 11 know inference only; from 12 on `training_mode` says, and before 7 `is_test`. A Dropout that
trains with a ratio of zero passes its input on too. Where both ends keep their names, such as an input and an output of
the model, an Identity takes its place.

It does not fire when
1. it trains: `training_mode` is true (`is_test` is 0)
2. `training_mode` is computed, or an input that a caller may override
3. its mask is read
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.operators.requirements import require_unread
from graphsurgery.operators.training import why_it_trains
from graphsurgery.rewrite import Editor, NodePass, Refuse


class DropDropout(NodePass):
    name = "drop-dropout"
    effect = "exact"
    matches = ("Dropout",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        reason = why_it_trains(node, edit.opset)
        if reason is not None:
            raise Refuse(reason)
        require_unread(node, edit, "its mask is")
        edit.bypass(node, node.inputs[0])
