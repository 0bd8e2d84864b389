"""Split a Concat of many inputs into Concats of at most `most` each, for accelerators with a limit (often two).

    Concat(a, b, c, d, e)  ->  Concat(Concat(Concat(a, b), Concat(c, d)), e)

All along the same axis, in pairs of neighbours, so that an element is copied as few times as can be: the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphsurgery.rewrite import Editor, NodePass


@dataclass(frozen=True)
class SplitConcat(NodePass):
    """`most` is the number of inputs that a Concat may have, 2 or more."""

    name = "split-concat"
    effect = "exact"
    matches = ("Concat",)

    most: int = 2

    def __post_init__(self) -> None:
        """Raise ValueError for a limit below 2."""
        super().__post_init__()
        if self.most < 2:
            raise ValueError(f"most is {self.most}; a Concat joins 2 inputs or more")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        parts = list(node.inputs)
        if len(parts) <= self.most:
            return
        attrs = dict(node.attrs)  # before operator set 4 the axis may be left out, and then is 1 everywhere
        while len(parts) > self.most:
            groups = [parts[start : start + self.most] for start in range(0, len(parts), self.most)]
            hint = f"{node.outputs[0].name}_joined"
            parts = [group[0] if len(group) == 1 else edit.emit("Concat", group, attrs, hint=hint) for group in groups]
        edit.replace(node, "Concat", parts, attrs)
