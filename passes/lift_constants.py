"""Turn Constant nodes into initializers, where NPU compilers and quantizers look for weights.

    Constant([2, 3]) -> w -> Add(x, w)   ->   Add(x, w), w an initializer [2, 3]

The initializer has the name of the tensor, and lands in the graph of the node that reads it: one that only an If or
Loop body reads, in the body. Values are referenced, not copied, and may be strings. `fold-constants` does this too,
besides computing what depends on constants. An initializer that need not be an input takes IR version 4.

It does not fire when
1. the value is an output of the model or of a body, which a node has to write
2. the value is sparse
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphsurgery.graph import constant
from graphsurgery.rewrite import Editor, NodePass, Refuse


class LiftConstants(NodePass):
    name = "lift-constants"
    effect = "exact"
    matches = ("Constant",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        value = _value(node)
        if value is None:
            raise Refuse("its value is sparse")
        (tensor,) = node.outputs
        if edit.is_output(tensor):
            raise Refuse("its value is an output, which a node has to write")
        edit.bypass(node, gs.Constant(tensor.name, value))  # under the old name, which is free from now on


def _value(node: gs.Node) -> np.ndarray | LazyValues | None:
    """Return the value of `node` in the form it is stored in, so that weights are not read for this."""
    for name, held in node.attrs.items():
        if name == "value" and isinstance(held, gs.Constant):
            return held._values
        if name in ("value_string", "value_strings"):
            return np.array(held, dtype=object)
    return constant(node.outputs[0])
