"""How many multiply-adds each node of a model takes, from its static shapes.

Counted are the operators that hold nearly all of them: Conv, ConvTranspose, Gemm, MatMul, and their quantized forms
(QLinearConv, ConvInteger, QLinearMatMul, MatMulInteger, onnxruntime's QGemm). In a QDQ model the shape of a weight is
that of what its DequantizeLinear writes. Other operators count as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_graphsurgeon as gs

from graphsurgery.graph import STANDARD_DOMAINS, attribute, is_op, producer, static_shape, subgraphs, walk_nodes
from graphsurgery.graph.model import Model
from graphsurgery.graph.shapes import infer_shapes

Shape = tuple[int, ...]

# ONNX Runtime's own, which take 16 bits before opset 21
_LIKE_ONNX = {("com.microsoft", "QuantizeLinear"), ("com.microsoft", "DequantizeLinear")}


def multiply_adds(model: Model) -> list[int | None]:
    """Return the multiply-adds of each node of the main graph, in its order; None where a shape is not static.

    An If counts as its costlier branch, a Loop or a Scan as one turn. Raises ModelError where shape inference fails.
    """
    return [count for _, count in multiply_adds_by_node(model)]


def multiply_adds_by_node(model: Model) -> list[tuple[gs.Node, int | None]]:
    """Return what `multiply_adds` does, each with its node, whose tensors have the types that were inferred."""
    view = model.graph()
    for node in walk_nodes(view):
        if (
            node.domain,
            node.op,
        ) in _LIKE_ONNX:  # in this view only, so that ONNX's shape inference goes on behind them
            node.domain = ""
    infer_shapes(view)
    return [(node, _of_node(node)) for node in view.nodes]


def _of_node(node: gs.Node) -> int | None:
    inner = [_total(body) for body in subgraphs(node)]
    if inner:
        known = [count for count in inner if count is not None]
        return max(known) if len(known) == len(inner) else None
    count = _COUNTS.get(node.op) if node.domain in STANDARD_DOMAINS else _CONTRIB.get((node.domain, node.op))
    try:
        return 0 if count is None else count(node)
    except IndexError:  # it has fewer inputs, or its input fewer dimensions, than the operator asks for
        return None


def _total(graph: gs.Graph) -> int | None:
    counts = [_of_node(node) for node in graph.nodes]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _shape(node: gs.Node, index: int) -> Shape | None:
    """Return the static shape of an input; of one that is dequantized, the stored one's where none was inferred."""
    tensor = node.inputs[index]
    shape = static_shape(tensor)
    source = producer(tensor)
    if shape is None and source is not None and is_op(source, "DequantizeLinear"):
        return static_shape(source.inputs[0])
    return shape


def _of_conv(weight: int) -> Callable[[gs.Node], int | None]:
    def count(node: gs.Node) -> int | None:
        kernel, result = _shape(node, weight), static_shape(node.outputs[0])
        return None if kernel is None or result is None else math.prod(result) * math.prod(kernel[1:])

    return count


def _of_conv_transpose(node: gs.Node) -> int | None:
    data, kernel = (
        _shape(node, 0),
        _shape(node, 1),
    )  # each element of the input meets each of [outputs / group, *window]
    return None if data is None or kernel is None else math.prod(data) * math.prod(kernel[1:])


def _of_gemm(node: gs.Node) -> int | None:
    a, result = _shape(node, 0), static_shape(node.outputs[0])
    if a is None or result is None:
        return None
    return math.prod(result) * a[0 if attribute(node, "transA", 0) else 1]


def _of_matmul(node: gs.Node) -> int | None:
    a, result = _shape(node, 0), static_shape(node.outputs[0])
    return None if a is None or result is None else math.prod(result) * a[-1]


_COUNTS: dict[str, Callable[[gs.Node], int | None]] = {
    "Conv": _of_conv(1),
    "ConvInteger": _of_conv(1),
    "QLinearConv": _of_conv(3),
    "ConvTranspose": _of_conv_transpose,
    "Gemm": _of_gemm,
    "MatMul": _of_matmul,
    "MatMulInteger": _of_matmul,
    "QLinearMatMul": _of_matmul,
}
_CONTRIB = {("com.microsoft", "QGemm"): _of_gemm}
