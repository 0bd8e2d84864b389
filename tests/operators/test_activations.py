from __future__ import annotations

from graphsurgery.operators.activations import excluded, gated, is_torch_hard_sigmoid
from operators.small_graphs import view


def test_a_gate_is_found_on_either_side_of_the_product() -> None:
    for product in ("Mul (x, s)", "Mul (s, x)"):
        graph, _ = view(f"g (float[2] x) => (float[2] y) {{ s = Sigmoid (x)  y = {product} }}")
        found = gated(graph.nodes[1], "Sigmoid")
        assert found is not None
        assert found[0] is graph.inputs[0]
        assert found[1] is graph.nodes[0]
        assert gated(graph.nodes[1], "HardSigmoid") is None


def test_a_gate_of_another_tensor_is_none() -> None:
    graph, _ = view("g (float[2] x, float[2] z) => (float[2] y) { s = Sigmoid (z)  y = Mul (x, s) }")
    assert gated(graph.nodes[1], "Sigmoid") is None


def test_the_hard_sigmoid_of_torch_is_known_by_its_slope() -> None:
    torch, _ = view("g (float[2] x) => (y) { y = HardSigmoid <alpha = 0.16666667> (x) }")
    onnx, _ = view("g (float[2] x) => (y) { y = HardSigmoid (x) }")
    assert is_torch_hard_sigmoid(torch.nodes[0])
    assert not is_torch_hard_sigmoid(onnx.nodes[0])


def test_a_pattern_excludes_by_the_name_of_a_node_or_of_what_it_writes() -> None:
    graph, _ = view("g (float[2] x) => (head_out) { head_out = Neg (x) }")
    graph.nodes[0].name = "/head/Neg"
    assert excluded(graph.nodes[0], ["/head/*"])
    assert excluded(graph.nodes[0], ["*_out"])
    assert not excluded(graph.nodes[0], ["/Head/*", "out"])
