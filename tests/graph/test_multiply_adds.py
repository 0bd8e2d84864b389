"""Multiply-adds of a node, against sums written down by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphsurgery.graph.model import Model
from graphsurgery.graph.multiply_adds import multiply_adds

HEAD = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1, "other": 1]>'


def counts(text: str) -> list[int | None]:
    return multiply_adds(Model(onnx.parser.parse_model(f"{HEAD} {text}")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("g (float[2,3,8,8] x, float[5,3,3,3] w) => (float[2,5,6,6] y) { y = Conv (x, w) }", 2 * 5 * 6 * 6 * 3 * 9),
        (
            "g (float[1,4,9,9] x, float[8,2,3,3] w) => (float[1,8,5,5] y)"
            "{ y = Conv <group=2, strides=[2,2], pads=[1,1,1,1]> (x, w) }",
            8 * 25 * 2 * 9,
        ),
        ("g (float[1,3,10] x, float[4,3,3] w) => (float[1,4,8] y) { y = Conv (x, w) }", 4 * 8 * 3 * 3),
        (
            "g (float[1,4,5,5] x, float[4,3,2,2] w) => (float[1,6,10,10] y)"
            "{ y = ConvTranspose <group=2, strides=[2,2]> (x, w) }",
            4 * 25 * 3 * 4,
        ),
        ("g (float[3,7] a, float[7,5] b) => (float[3,5] y) { y = Gemm (a, b) }", 3 * 5 * 7),
        ("g (float[7,3] a, float[5,7] b) => (float[3,5] y) { y = Gemm <transA=1, transB=1> (a, b) }", 3 * 5 * 7),
        ("g (float[2,1,3,7] a, float[4,7,5] b) => (float[2,4,3,5] y) { y = MatMul (a, b) }", 2 * 4 * 3 * 5 * 7),
        ("g (float[7] a, float[7] b) => (float y) { y = MatMul (a, b) }", 7),
        ("g (float[7] a, float[7,5] b) => (float[5] y) { y = MatMul (a, b) }", 35),
        ("g (uint8[3,7] a, uint8[7,5] b) => (int32[3,5] y) { y = MatMulInteger (a, b) }", 3 * 5 * 7),
        ("g (uint8[1,3,8,8] x, uint8[5,3,3,3] w) => (int32[1,5,6,6] y) { y = ConvInteger (x, w) }", 5 * 36 * 27),
        (
            "g (uint8[1,3,8,8] x, float s, uint8 z, uint8[5,3,3,3] w) => (uint8[1,5,6,6] y)"
            "{ y = QLinearConv (x, s, z, w, s, z, s, z) }",
            5 * 36 * 27,
        ),
        (
            "g (uint8[3,7] a, float s, uint8 z, uint8[7,5] b) => (uint8[3,5] y)"
            "{ y = QLinearMatMul (a, s, z, b, s, z, s, z) }",
            3 * 5 * 7,
        ),
        (
            "g (uint8[3,7] a, float s, uint8 z, uint8[7,5] b) => (uint8[3,5] y)"
            "{ y = com.microsoft.QGemm (a, s, z, b, s, z, , s, z) }",
            3 * 5 * 7,
        ),
        ("g (float[3,7] a) => (float[3,7] y) { y = Relu (a) }", 0),
        ("g (float[3,7] a, float[7,5] b) => (float[3,5] y) { y = other.MatMul (a, b) }", 0),
    ],
)
def test_counts_are_those_of_the_definition(text: str, expected: int) -> None:
    assert counts(text) == [expected]


def test_the_weights_of_a_qdq_model_are_looked_up_behind_their_dequantizelinear() -> None:
    text = """g (uint8[1,3,8,8] x, uint8[5,3,3,3] w, float s, uint8 z) => (uint8[1,5,6,6] y) {
        a = DequantizeLinear (x, s, z)  b = DequantizeLinear (w, s, z)
        c = Conv (a, b)
        y = QuantizeLinear (c, s, z) }"""
    assert counts(text) == [0, 0, 5 * 36 * 27, 0]


def test_onnxruntimes_own_dequantizelinear_for_16_bits_is_no_obstacle() -> None:
    text = """g (uint16[1,3,8,8] x, uint8[5,3,3,3] w, float[2,5,3,3] v, float s, uint8 z, uint16 l) =>
        (uint16[1,2,4,4] y) {
        a = com.microsoft.DequantizeLinear (x, s, l)  b = com.microsoft.DequantizeLinear (w, s, z)
        c = Conv (a, b)
        d = com.microsoft.QuantizeLinear (c, s, l)
        e = com.microsoft.DequantizeLinear (d, s, l)
        f = Conv (e, v)
        y = com.microsoft.QuantizeLinear (f, s, l) }"""
    assert [count for count in counts(text) if count] == [5 * 36 * 27, 2 * 16 * 45]


def test_a_size_that_is_not_static_makes_the_count_unknown() -> None:
    text = """g (float[N,3,8,8] x, float[5,3,3,3] w, float[3,7] a, float[7,5] b) => (float[N,5,6,6] y, float[3,5] m) {
        y = Conv (x, w)  m = MatMul (a, b) }"""
    assert counts(text) == [None, 105]


def test_an_if_costs_its_costlier_branch() -> None:
    text = """g (bool p, float[3,7] a, float[7,5] b) => (float[3,5] y) {
        y = If (p) <then_branch = t () => (float[3,5] u) { v = MatMul (a, b)  c = MatMul (a, b)  u = Add (v, c) },
                    else_branch = e () => (float[3,5] w) { w = MatMul (a, b) }> }"""
    assert counts(text) == [210]


def test_a_branch_with_an_unknown_size_makes_the_if_unknown() -> None:
    text = """g (bool p, float[3,7] a, float[7,N] b) => (float[3,N] y) {
        y = If (p) <then_branch = t () => (float[3,N] u) { u = MatMul (a, b) },
                    else_branch = e () => (float[3,N] w) { w = MatMul (a, b) }> }"""
    assert counts(text) == [None]


def test_weights_that_lie_in_a_file_are_not_read(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.zeros((5, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, None)],
        [weight],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph), path, save_as_external_data=True, size_threshold=0, location="m.data")
    model = Model.load(path)
    (path.parent / "m.data").unlink()
    assert multiply_adds(model) == [5 * 36 * 27]
