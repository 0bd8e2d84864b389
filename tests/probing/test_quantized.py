"""One-node models in whole numbers."""

from __future__ import annotations

import onnx
import pytest
from targets.nodes import target

from graphsurgery.probing.build import build
from graphsurgery.probing.equality import compare
from graphsurgery.probing.quantized import is_quantizable, number_of_node, quantized

ANY = target(precisions=["float16", "int8", "a16w8"])
SOME = (
    "Conv",
    "ConvTranspose",
    "MaxPool",
    "Resize",
    "Add",
    "Concat",
    "Gemm",
    "MatMul",
    "Softmax",
    "Slice",
    "Clip",
    "Pad",
)


@pytest.mark.parametrize("op", SOME)
@pytest.mark.parametrize(("precision", "at_least"), [("int8", 20.0), ("a16w8", 30.0)])
def test_it_computes_the_same_as_far_as_its_bits_go(op: str, precision: str, at_least: float) -> None:
    node = build(op, {}, ANY, precision).node
    proto = quantized(node, precision)
    onnx.checker.check_model(proto)
    assert proto.graph.node[number_of_node(proto)].op_type == op
    assert compare(node.results, node.expected(proto)).decibels > at_least


def test_what_moves_values_keeps_their_scale() -> None:
    node = build("MaxPool", {}, ANY, "int8").node
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in quantized(node, "int8").graph.initializer}
    assert len({float(value) for name, value in scales.items() if name.endswith("_scale")}) == 1


def test_what_has_no_float_stays_as_it_is() -> None:
    assert not is_quantizable(build("And", {}, ANY, "int8").node)
    assert not is_quantizable(build("Upsample", {}, ANY, "int8").node)  # of opset 9
