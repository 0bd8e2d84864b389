import pytest

from graphsurgery.graph.shapes import infer
from graphsurgery.testing import parse

SIZE = 1 << 40


@pytest.mark.parametrize(
    "nodes",
    [
        "z = Range (a, n, b)",
        "z = ConstantOfShape (v)",
        "z = Expand (o, v)",
        f"k = Constant <value = int64[1] {{{SIZE}}}> () z = Tile (o, k)",
    ],
)
def test_values_of_a_list_without_an_end_are_not_propagated(nodes: str) -> None:
    """ONNX would hold each of them: this ends with the memory."""
    weights = f"<int64 a = {{0}}, int64 b = {{1}}, int64 n = {{{SIZE}}}, int64[1] v = {{{SIZE}}}, int64[1] o = {{1}}>"
    head = '<ir_version: 8, opset_import: ["": 17]>'
    model = parse(f"{head} g () => (float[N] y) {weights} {{ {nodes} y = Cast <to = 1> (z) }}")
    assert infer(model, None).graph.value_info


def test_values_of_a_short_list_are() -> None:
    model = parse("""<ir_version: 8, opset_import: ["": 17]> g (float[2, 3] x) => (float[a] y) <int64[1] m = {-1}> {
        s = Shape (x)  z = ConstantOfShape (s)  y = Reshape (z, m) }""")
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in infer(model, None).graph.value_info}
    assert shapes["z"] == [2, 3]


def test_a_list_of_a_declared_length_without_bounds_is_no_shape_of_so_many_dimensions() -> None:
    model = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[1, 3] x, int64[2147483647] sizes) => (float[N] y) { y = Expand (x, sizes)  z = Neg (x) }""")
    inferred = infer(model, None)
    assert [info.name for info in inferred.graph.value_info] == ["z"]
    assert inferred.graph.input[1].type.tensor_type.shape.dim[0].dim_value == 2147483647
