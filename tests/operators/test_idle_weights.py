import pytest

from graphsurgery.operators.idle_weights import at_work, set_aside, twins
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17, "my": 1]>'


def is_at_work(nodes: str) -> bool:
    model = parse(f"""{HEAD}
        g (float[1, 128, 4, 4] x) => (float y) <float[1] c = {{2}}, float[129] d = {{1}}> {{ {nodes} }}""")
    for name in ("w", "v"):
        model.graph.initializer.add(name=name, data_type=1, dims=[129, 128, 1, 1], raw_data=name.encode() * 66048)
    light, heavy = set_aside(model)
    assert list(heavy) == ["w", "v"]
    assert [info.name for info in light.graph.input] == ["x", "w", "v"]
    return "w" in at_work(light.graph, heavy)


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Conv (x, w) y = Relu (a)",
        "a = Conv (x, w) b = Relu (x) y = Add (a, b)",
        "a = Conv (x, w, d) y = Identity (a)",
        "a = MatMul (x, w) b = Relu (x) c2 = MatMul (b, v) y = Concat <axis = 0> (a, c2)",
    ],
)
def test_a_weight_that_only_its_layer_needs_is_idle(nodes: str) -> None:
    assert not is_at_work(nodes)


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Conv (x, w) y = BatchNormalization (a, d, d, d, d)",
        "a = Conv (x, w) y = Mul (a, c)",
        "a = Mul (x, c) y = Conv (a, w)",
        "k = Constant <value = float {2}> () a = Conv (x, w) y = Mul (a, k)",
        "y = Transpose (w)",
        "y = Conv (w, v)",
        "y = Conv (v, w)",
        "y = my.Conv (x, w)",
        "a = MatMul (x, w) b = MatMul (x, v) y = Add (a, b)",
        "a = Conv (x, w) t = Cast <to = 9> (c) y = If (t)"
        " <then_branch = g () => (float p) { p = Relu (w) }, else_branch = h () => (float q) { q = Relu (x) }>",
        "w2 = Conv (x, v) y = Identity (w)",
    ],
)
def test_a_weight_beside_what_goes_into_it_is_at_work(nodes: str) -> None:
    assert is_at_work(nodes)


def test_two_weights_of_the_same_values_are_twins_and_those_of_another_shape_are_not() -> None:
    model = parse(f"{HEAD} g (float[1] x) => (float[1] y) {{ y = Relu (x) }}")
    for name, dims, value in (
        ("a", [20000], b"1"),
        ("b", [20000], b"2"),
        ("c", [20000], b"1"),
        ("d", [2, 10000], b"1"),
    ):
        model.graph.initializer.add(name=name, data_type=1, dims=dims, raw_data=value * 80000)
    assert twins(set_aside(model)[1]) == ["a", "c"]
