from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs
import pytest

from graphsurgery.operators.requirements import (
    require_axes,
    require_constant,
    require_dtype,
    require_integers,
    require_read_once,
    require_shape,
    require_unread,
)
from graphsurgery.rewrite import Editor, Refuse
from operators.small_graphs import view

CLIP = "g (float[2, n] x, float low) => (y) <float high = {1}> { z = Clip (x, low, high)  y = Neg (z) }"
POOL = "g (float[1, 1, 4, 4] x) => (y, z) { y, z = MaxPool <kernel_shape = [2, 2]> (x) }"
UNKNOWN = "g (x, int64[1] a) => (y) { y = Squeeze (x, a) }"


def first(text: str) -> tuple[gs.Node, Editor]:
    graph, edit = view(text)
    return graph.nodes[0], edit


def test_what_is_there_is_returned() -> None:
    clip, edit = first(CLIP)
    assert require_constant(clip.inputs[2], "its bound is") == 1
    assert require_dtype(clip.inputs[0], edit).name == "float32"
    assert require_shape(clip.inputs[0], edit, ranks=[2]) == [2, None]
    assert require_axes([-1, 0], 3) == [2, 0]
    assert require_integers(clip, "axes", 3, "its axes are") == []
    require_unread(clip, edit, "its mask is")
    require_read_once(clip.outputs[0], edit)


@pytest.mark.parametrize(
    ("text", "demand", "reason"),
    [
        (CLIP, lambda node, edit: require_constant(node.inputs[1], "its bound is"), "its bound is not constant"),
        (CLIP, lambda node, edit: require_dtype(node.inputs[0], edit, ["int8", "bool"]), "float32, not int8 or bool"),
        (CLIP, lambda node, edit: require_shape(node.inputs[0], edit, ranks=[3, 4]), "is 2, not 3 or 4"),
        (CLIP, lambda node, edit: require_axes([0, -3], 3), "not right for 3 axes"),
        (UNKNOWN, lambda node, edit: require_dtype(node.inputs[0], edit), "its elements are of unknown type"),
        (UNKNOWN, lambda node, edit: require_shape(node.inputs[0], edit), "the rank of its input is not known"),
        (UNKNOWN, lambda node, edit: require_integers(node, "axes", 1, "its axes are"), "its axes are not constant"),
        (POOL, lambda node, edit: require_unread(node, edit, "the indices are"), "the indices are read"),
        (
            POOL,
            lambda node, edit: require_read_once(node.outputs[0], edit),
            "what the MaxPool writes is read elsewhere",
        ),
    ],
)
def test_what_is_not_there_is_refused(text: str, demand: Callable[[gs.Node, Editor], object], reason: str) -> None:
    node, edit = first(text)
    with pytest.raises(Refuse, match=reason):
        demand(node, edit)
