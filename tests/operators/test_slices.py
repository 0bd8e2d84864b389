from __future__ import annotations

import numpy as np
import pytest

from graphsurgery.graph.model import Model
from graphsurgery.operators.axes import Bounds
from graphsurgery.operators.slices import (
    TO_THE_END,
    chain,
    locate,
    on_axes,
    padding,
    picked,
    reaches_the_end,
    relabelled,
    reshaping,
    sizes,
    slicing,
    takes_all,
)
from graphsurgery.rewrite import Refuse
from operators.small_graphs import view


def test_a_slice_is_written_as_the_operator_set_wants_it() -> None:
    _, old = view("g (float[4] x) => (y) { y = Identity (x) }", 9)
    _, new = view("g (float[4] x) => (y) { y = Identity (x) }", 17)
    taken = [Bounds(0, 1, 3, 1)]
    assert slicing(old, "s", taken).attrs == {"axes": [0], "ends": [3], "starts": [1]}
    assert [tensor.values.tolist() for tensor in slicing(new, "s", taken).parameters] == [[1], [3], [0]]
    assert len(slicing(new, "s", [Bounds(0, 1, 3, 2)]).parameters) == 4, "the steps too, where one is not 1"


def test_a_squeeze_is_written_as_the_operator_set_wants_it() -> None:
    _, old = view("g (float[4] x) => (y) { y = Identity (x) }", 12)
    _, new = view("g (float[4] x) => (y) { y = Identity (x) }", 13)
    assert on_axes(old, "Squeeze", "s", [1]).attrs == {"axes": [1]}
    assert on_axes(new, "Squeeze", "s", [1]).parameters[0].values.tolist() == [1]
    assert on_axes(new, "ReduceMean", "s", [1], {"keepdims": 1}).attrs == {"keepdims": 1, "axes": [1]}


def test_a_pad_is_written_as_the_operator_set_wants_it() -> None:
    _, old = view("g (float[4] x) => (y) { y = Identity (x) }", 10)
    _, new = view("g (float[4] x) => (y) { y = Identity (x) }", 11)
    two = np.array(2, np.float32)
    assert padding(old, "p", [1, 0], two).attrs == {"pads": [1, 0], "value": 2.0}
    assert [tensor.values.tolist() for tensor in padding(new, "p", [1, 0], two).parameters] == [[1, 0], 2.0]
    assert padding(old, "p", [1, 0]).attrs == {"pads": [1, 0]}


def test_the_last_link_of_a_chain_writes_what_the_node_wrote() -> None:
    graph, edit = view("g (float[2, 6] x) => (float[2, 3, 2] y) { y = Neg (x) }")
    node = graph.nodes[0]
    chain(edit, node, node.inputs[0], [reshaping(edit, "y", [12]), reshaping(edit, "y", [2, 3, 2])])
    graph.toposort()
    assert [node.op for node in graph.nodes] == ["Reshape", "Reshape"]
    assert graph.outputs[0].name == "y"
    Model.of(graph).check("the chain")


def test_an_unknown_size_is_none_and_an_unknown_rank_is_no_shape() -> None:
    graph, edit = view("g (float[2, n] x, float[2] z) => (y) { y = Identity (x) }")
    assert sizes(edit, graph.inputs[0]) == [2, None]
    graph.inputs[0].shape = None
    assert sizes(edit, graph.inputs[0]) is None


def test_an_axis_from_the_back_needs_the_rank_before_operator_set_11() -> None:
    old, old_edit = view("g (float[2, n] x) => (y) { y = Identity (x) }", 10)
    new, new_edit = view("g (float[2, n] x) => (y) { y = Identity (x) }", 11)
    assert locate(old_edit, old.inputs[0], -1) == (1, None)
    old.inputs[0].shape = new.inputs[0].shape = None
    with pytest.raises(Refuse, match="which axis, counted from the front"):
        locate(old_edit, old.inputs[0], -1)
    assert locate(new_edit, new.inputs[0], -1) == (-1, None)
    assert locate(old_edit, old.inputs[0], 1) == (1, None)


@pytest.mark.parametrize(
    ("taken", "all_of_it", "to_the_end"),
    [
        (Bounds(0, 0, TO_THE_END, 1), True, True),
        (Bounds(0, 0, 2**31 - 1, 1), True, True),
        (Bounds(0, 1, TO_THE_END, 1), False, True),
        (Bounds(0, 0, TO_THE_END, 2), False, True),
        (Bounds(0, 0, 4, 1), False, False),
    ],
)
def test_what_is_taken_of_an_axis_whatever_its_size(taken: Bounds, all_of_it: bool, to_the_end: bool) -> None:
    assert takes_all(taken) == all_of_it
    assert reaches_the_end(taken) == to_the_end


def test_bounds_are_clamped_as_python_does() -> None:
    assert list(picked(Bounds(0, -3, 99, 2), 5)) == [2, 4]


@pytest.mark.parametrize(
    ("sources", "given", "written"),
    [
        ([0, None, 1], [2, None], [2, 1, -1]),
        ([0, 1], [None, None], [0, 0]),
        ([None, 0, 1], [None, None], None),  # two sizes to be computed
        ([None, 0], [0], None),  # a 0 would copy another axis
    ],
)
def test_a_reshape_for_every_size_that_is_left_open(
    sources: list[int | None], given: list[int | None], written: list[int] | None
) -> None:
    if written is not None:
        assert relabelled(sources, given) == written
        return
    with pytest.raises(Refuse, match="can't be written down for a Reshape"):
        relabelled(sources, given)
