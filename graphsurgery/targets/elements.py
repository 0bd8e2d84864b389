"""What limits ask of elements: of which type a node reads and writes them, and what the graph is given."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.targets.asked import ABSENT, Asked, Fact, is_omitted


def types(asked: Asked) -> Fact:
    """Return the types of all that it reads and writes, constants aside."""
    names = [_name(tensor) for tensor in asked.data]
    return None if None in names else tuple(name for name in names if name is not None)


def first_type(asked: Asked) -> Fact:
    """Return the type of its first input, or of what it writes where it reads nothing."""
    return _name(asked.node.inputs[0] if asked.node.inputs else asked.node.outputs[0])


def given(asked: Asked) -> list[gs.Tensor]:
    """Return the inputs of the graph that a node reads."""
    read = [tensor for tensor in asked.node.inputs if not is_omitted(tensor) and not asked.is_settled(tensor)]
    return [tensor for tensor in read if not tensor.inputs]


def given_type(asked: Asked) -> Fact:
    """Return the type of the first input of the graph that it reads."""
    found = given(asked)
    return _name(found[0]) if found else ABSENT


def _name(tensor: gs.Tensor) -> str | None:
    return None if tensor.dtype is None else np.dtype(tensor.dtype).name
