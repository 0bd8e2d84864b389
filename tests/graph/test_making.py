"""Objects made without graphsurgeon's constructors are what those make."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphsurgery.graph.view import making


def said(thing: Any) -> dict[str, Any]:
    """What a gs object holds, its lists as plain ones."""
    return {name: list(value) if isinstance(value, list) else value for name, value in vars(thing).items()}


def test_a_variable() -> None:
    own, theirs = (
        making.variable("v", np.dtype("int8"), [1, "n"], "tensor_type"),
        gs.Variable("v", np.dtype("int8"), [1, "n"]),
    )
    assert said(own) == said(theirs)
    assert said(making.variable("v")) == said(gs.Variable("v"))


def test_a_constant() -> None:
    values = np.arange(3)
    assert said(making.constant("c", values)) == said(gs.Constant("c", values))


def test_a_node_and_its_tensors_know_each_other() -> None:
    def made(make: Any, variable: Any) -> tuple[gs.Node, gs.Variable, gs.Variable]:
        a, b = variable("a"), variable("b")
        return make("Add", "n", {"k": 1}, [a, a], [b], "my"), a, b

    own, theirs = made(making.node, making.variable), made(gs.Node, gs.Variable)
    assert said(own[0]).keys() == said(theirs[0]).keys()
    assert own[0] == theirs[0]
    assert own[1].outputs == [own[0], own[0]]
    assert own[2].inputs == [own[0]]


@pytest.mark.parametrize("field", ["inputs", "outputs"])
def test_graphsurgeons_own_edits_keep_both_sides_true(field: str) -> None:
    a, b = making.variable("a"), making.variable("b")
    node = making.node("Neg", "n", {}, [a] if field == "inputs" else [], [a] if field == "outputs" else [])
    side = "outputs" if field == "inputs" else "inputs"
    getattr(node, field)[0] = b
    assert [len(getattr(a, side)), len(getattr(b, side))] == [0, 1]
    setattr(node, field, [a, b])
    assert [len(getattr(a, side)), len(getattr(b, side))] == [1, 1]
    getattr(node, field).clear()
    assert [len(getattr(a, side)), len(getattr(b, side))] == [0, 0]
    getattr(a, side).append(node)
    assert getattr(node, field) == [a]
    assert not vars(getattr(node, field))


def test_a_tensor_becomes_another_kind() -> None:
    made = making.variable("v", np.dtype("float32"), [2])
    made.to_constant(np.zeros(2, np.float32))
    assert isinstance(made, gs.Constant)
    made.to_variable(np.float32, [2])
    assert (made.name, made.shape) == ("v", [2])
