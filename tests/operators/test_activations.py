from __future__ import annotations

from graphsurgery.operators.activations import excluded, is_torch_hard_sigmoid
from operators.small_graphs import view


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
