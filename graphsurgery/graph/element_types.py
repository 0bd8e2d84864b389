"""The element type of a tensor by what stands around it, for those who ask for no shape.

    y = Relu(Conv(x, w))     w is float32, and a Conv reads and writes one type, and so does a Relu: y is float32

ONNX's definition of an operator says which of its inputs and outputs are of one type. Mostly some constant is near, and
then nobody has to infer the whole graph.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.defs import OpSchema

from graphsurgery.graph.queries import STANDARD_DOMAINS, producer
from graphsurgery.graph.view.origin import table

_NEAR = 16  # nodes that are looked at, one behind another; it takes about as long to infer them all
_FIXED = {"tensor(bool)": np.dtype(bool), "tensor(int64)": np.dtype(np.int64)}


def element_type(tensor: gs.Tensor, root: gs.Graph) -> np.dtype[Any] | None:
    """Return the element type of `tensor`, None where nothing near tells; `root` is the outermost graph around it.

    What a file says of tensors in between isn't relied upon, as inference doesn't.
    """
    base = table(root).base
    if base is not None and base.functions:  # one may stand for an operator of ONNX
        return None
    for _ in range(_NEAR):
        node = producer(tensor)
        if isinstance(tensor, gs.Constant) or node is None:
            given = isinstance(tensor, gs.Constant) or any(tensor is each for each in root.inputs)
            return np.dtype(tensor.dtype) if given and tensor.dtype is not None else None
        if node.domain not in STANDARD_DOMAINS:
            return None
        place = next(place for place, output in enumerate(node.outputs) if output is tensor)
        fixed, alike = _types_of(node.op, root.opset, place)
        if fixed is not None:
            return fixed
        read = [node.inputs[place] for place in alike if place < len(node.inputs) and node.inputs[place].name]
        if not read:
            return None
        tensor = next((other for other in read if isinstance(other, gs.Constant)), read[0])
    return None


@cache
def _types_of(op: str, opset: int, output: int) -> tuple[np.dtype[Any] | None, tuple[int, ...]]:
    """Return of which type an output always is, if it is, and the places of the inputs that are of the same as it."""
    if not onnx.defs.has(op, opset):
        return None, ()
    schema = onnx.defs.get_schema(op, opset)
    formal = schema.outputs[min(output, len(schema.outputs) - 1)]
    if formal.option == OpSchema.FormalParameterOption.Variadic and not formal.is_homogeneous:
        return None, ()
    allowed = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
    (only, *others) = allowed.get(formal.type_str, [formal.type_str])
    return None if others else _FIXED.get(only), tuple(
        place for place, other in enumerate(schema.inputs) if other.type_str == formal.type_str and _is_one(other)
    )


def _is_one(formal: OpSchema.FormalParameter) -> bool:
    """Whether all that stand for an input are of one type."""
    return formal.option != OpSchema.FormalParameterOption.Variadic or formal.is_homogeneous
