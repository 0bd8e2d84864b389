"""Element types by what stands around a tensor: what inference finds, or nothing."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from conftest import Applied

from graphsurgery import graph as graphs
from graphsurgery.graph import shapes
from graphsurgery.graph.claims import forget_claims
from graphsurgery.graph.element_types import element_type
from graphsurgery.graph.model import Model
from graphsurgery.graph.view import to_proto
from graphsurgery.testing import parse


def view_of(text: str, opset: int = 17) -> gs.Graph:
    return Model(parse(f'<ir_version: 8, opset_import: ["": {opset}, "mine": 1]> {text}')).graph()


def told(text: str, name: str, opset: int = 17) -> np.dtype | None:
    view = view_of(text, opset)
    found = next(tensor for tensor in graphs.tensors(view) if tensor.name == name)
    return element_type(found, view)


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ("h = Relu (x)", "float32"),
        ("c = Cast <to = 11> (x) h = Relu (c)", None),  # its attribute tells, which inference reads
        ("h = Shape (x)", "int64"),
        ("h = Less (x, x)", "bool"),
        ("k = Constant <value = double {1}> () h = Neg (k)", None),
        ("s = Shape (x) h = Neg (s)", "int64"),
        ("h, i = TopK (x, n)", "float32"),
        ("i, h = TopK (x, n)", "int64"),
        ("c = Cast <to = 11> (x) h = Concat <axis = 0> (c, d)", "float64"),
        ("c = Cast <to = 11> (x) h = Where (m, c, d)", "float64"),
        ("h = mine.Unknown (x)", None),
        ("u = mine.Unknown (x) h = Add (u, w)", "float32"),
        ("h = Gather (w, n)", "float32"),
        ("h = Resize (x, , sizes)", "float32"),
        ("h = If (b) <then_branch = t () => (float[2] p) { p = Relu (x) }, "
         "else_branch = e () => (float[2] q) { q = Neg (x) }>", None),
        ("h = DequantizeLinear (z, one, zero)", "float32"),
        ("h = QuantizeLinear (x, one, zero)", "uint8"),
        ("h = Identity (x)", "float32"),
    ],
)  # fmt: skip
def test_a_type_follows_from_constants_inputs_and_definitions(nodes: str, found: str | None) -> None:
    text = f"""g (float[2] x, bool b, bool[2] m, uint8[2] z) => (y)
        <float[2] w = {{1, 2}}, double[2] d = {{1, 2}}, int64[1] n = {{1}}, float[1] sizes = {{2}}, float one = {{1}},
        uint8 zero = {{0}}> {{ {nodes} y = mine.Unknown (h) }}"""
    assert told(text, "h") == (None if found is None else np.dtype(found))


def test_what_a_file_says_of_a_tensor_in_between_is_not_relied_upon() -> None:
    text = "g (float[2] x) => (y) <double[2] a> { u = mine.Unknown (x) a = Neg (u) h = Relu (a) y = mine.Unknown (h) }"
    assert told(text, "h") is None


def test_an_operator_that_a_function_stands_for_tells_nothing() -> None:
    model = parse('<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (y) { h = Relu (x) y = Neg (h) }')
    function = onnx.helper.make_function("mine", "F", ["p"], ["q"], [onnx.helper.make_node("Neg", ["p"], ["q"])], [])
    model.functions.append(function)
    view = Model(model).graph()
    assert element_type(view.nodes[0].outputs[0], view) is None


def test_far_from_anything_known_nothing_is_told() -> None:
    chain = " ".join(f"t{number + 1} = Relu (t{number})" for number in range(40))
    text = f"g (float[2] x) => (y) {{ t0 = Neg (x) {chain} y = mine.Unknown (t40) }}"
    assert (told(text, "t3"), told(text, "t40")) == (np.dtype("float32"), None)


def test_it_is_what_inference_finds_in_a_detector(uncut: Applied) -> None:
    (file,) = uncut.folder.glob("*.onnx")
    view = Model.load(file).graph()
    proto = to_proto(view, ordered=True)
    forget_claims(proto.graph)
    inferred = {id(tensor): kind.dtype for tensor, kind in shapes.types(view, shapes.infer(proto, None).graph)}
    tensors = [tensor for node in view.nodes for tensor in node.outputs if tensor.name]
    found = {id(tensor): element_type(tensor, view) for tensor in tensors}
    assert sum(kind is not None for kind in found.values()) > 0.5 * len(tensors)
    wrong = [t.name for t in tensors if found[id(t)] is not None and found[id(t)] != inferred.get(id(t))]
    assert not wrong
