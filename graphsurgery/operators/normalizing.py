"""What the layers that normalise are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.slices import Link, casting, on_axes
from graphsurgery.rewrite import Editor


def normalizing(
    node: gs.Node, dtype: np.dtype[Any], axes: Sequence[int], edit: Editor
) -> tuple[gs.Variable, list[Link]]:
    """Emit d = x - mean(x) over `axes`, and return it with the links to d / sqrt(mean(d * d) + epsilon).

    x, of `dtype`, is the first input of `node`, and the result has its type; a square would overflow in float16.
    """
    x, name = node.inputs[0], node.outputs[0].name
    kind = np.dtype(np.float32) if dtype == np.float16 else dtype

    def emit(op: str, inputs: list[gs.Tensor], part: str, attrs: dict[str, Any] | None = None) -> gs.Variable:
        return edit.emit(op, inputs, attrs, hint=f"{name}_{part}")

    def mean(tensor: gs.Tensor, part: str) -> gs.Variable:
        link = on_axes(edit, "ReduceMean", name, axes, {"keepdims": 1})
        return emit("ReduceMean", [tensor, *link.parameters], part, link.attrs)

    wide = x if kind == dtype else emit("Cast", [x], kind.name, casting(kind).attrs)
    epsilon = edit.constant(f"{name}_epsilon", np.asarray(attribute(node, "epsilon", 1e-5), kind))
    centred = emit("Sub", [wide, mean(wide, "mean")], "centred")
    variance = mean(emit("Mul", [centred, centred], "square"), "variance")
    deviation = emit("Sqrt", [emit("Add", [variance, epsilon], "variance_epsilon")], "deviation")
    return centred, [Link("Div", (deviation,), hint="normal"), *([] if kind == dtype else [casting(dtype)])]
