from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphsurgery.operators.channels import (
    Affine,
    arithmetic,
    batchnorm,
    channels_out,
    fold_in,
    fold_out,
    held,
    require_weights,
)
from graphsurgery.rewrite import Refuse
from operators.small_graphs import view

CONV = """g (float[1, 1, 2, 2] x) => (y) <float[2, 1, 1, 1] w = {1, 2}, float[2] b = {1, 1}>
    { c = Conv <kernel_shape = [1, 1]> (x, w, b)  y = Relu (c) }"""


def affine(scale: list[float], shift: list[float]) -> Affine:
    return Affine(np.array(scale), np.array(shift))


def conv() -> gs.Node:
    return view(CONV)[0].nodes[0]


def test_scale_and_shift_go_into_the_weights_in_front_of_them() -> None:
    found = fold_out(conv(), affine([2, 3], [1, -1]))
    assert found.weight is not None
    assert found.bias is not None
    assert (found.weight.ravel().tolist(), found.bias.tolist()) == ([2, 6], [3, 2])


def test_scale_and_shift_go_into_the_weights_behind_them() -> None:
    found = fold_in(conv(), affine([2], [10]))
    assert found.weight is not None
    assert found.bias is not None
    assert (found.weight.ravel().tolist(), found.bias.tolist()) == ([2, 4], [11, 21])


def test_a_shift_alone_leaves_the_weights_and_a_matmul_can_not_take_one() -> None:
    found = fold_out(conv(), affine([1, 1], [1, 1]))
    assert found.weight is None
    graph, _ = view("g (float[1, 2] x) => (y) <float[2, 2] w = {1, 2, 3, 4}> { y = MatMul (x, w) }")
    with pytest.raises(Refuse, match="a MatMul has no bias to take the shift"):
        fold_out(graph.nodes[0], affine([1, 1], [1, 1]))


def test_weights_out_of_range_are_refused() -> None:
    with pytest.raises(Refuse, match="the weights would leave the range of float32"):
        fold_out(conv(), affine([1e39, 1], [0, 0]))
    with pytest.raises(Refuse, match="the weights would leave the range of float16"):
        held(np.array([1e6]), np.dtype(np.float16))
    assert held(np.array([2.0]), np.dtype(np.float16)) == np.float16(2)


def test_put_writes_new_constants_and_leaves_the_old_ones_to_others() -> None:
    graph, edit = view(CONV)
    node = graph.nodes[0]
    old = node.inputs[1]
    found = fold_out(node, affine([2, 2], [0, 0]))
    found.put(node, edit)
    assert [tensor.name for tensor in node.inputs[1:]] == ["w_folded", "w_bias"]
    assert old.values.ravel().tolist() == [1, 2]


def test_a_batchnorm_is_a_scale_and_a_shift() -> None:
    text = """g (float[1, 1, 1, 1] x) => (y)
        <float[1] s = {2}, float[1] b = {1}, float[1] m = {3}, float[1] v = {4}>
        { y = BatchNormalization <epsilon = 0.0> (x, s, b, m, v) }"""
    node = view(text)[0].nodes[0]
    found = batchnorm(node, 17)
    assert (found.scale.tolist(), found.shift.tolist()) == ([1], [-2])
    node.attrs["training_mode"] = 1
    with pytest.raises(Refuse, match="it is in training mode"):
        batchnorm(node, 17)


def test_arithmetic_with_a_constant_is_a_scale_or_a_shift() -> None:
    def of(body: str) -> tuple[list[float], list[float]] | None:
        graph, _ = view(f"g (float[1] x) => (y) <float[1] c = {{4}}> {{ y = {body} }}")
        found = arithmetic(graph.nodes[0])
        return None if found is None else (found[1].scale.tolist(), found[1].shift.tolist())

    assert of("Add (x, c)") == ([1], [4])
    assert of("Sub (c, x)") == ([-1], [4])
    assert of("Div (x, c)") == ([0.25], [0])
    assert of("Div (c, x)") is None
    assert of("Relu (x)") is None


def test_what_varies_along_another_axis_is_none() -> None:
    by_channel = Affine(np.ones((2, 1, 1)), np.zeros((2, 1, 1)))
    assert by_channel.along(1, 4, 2) is not None
    assert by_channel.along(1, 4, 3) is None
    assert Affine(np.ones((1, 2)), np.zeros((1, 2))).along(1, 4, 2) is None


def test_weights_are_constant_floats_of_two_axes_or_more() -> None:
    assert require_weights(conv()).shape == (2, 1, 1, 1)
    graph, _ = view("g (float[1, 2] x, float[2, 2] w) => (y) { y = MatMul (x, w) }")
    with pytest.raises(Refuse, match="the weights of the MatMul are not constant"):
        require_weights(graph.nodes[0])
    vector, _ = view("g (float[1, 2] x) => (y) <float[2] w = {1, 2}> { y = MatMul (x, w) }")
    with pytest.raises(Refuse, match="the weights of the MatMul are a vector"):
        require_weights(vector.nodes[0])


def test_the_channels_that_are_written_come_from_the_weights() -> None:
    assert channels_out(conv()) == 2
