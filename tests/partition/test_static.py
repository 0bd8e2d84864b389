import pytest

from graphsurgery.errors import ModelError
from graphsurgery.graph.model import Model
from graphsurgery.partition.static import certify_static
from graphsurgery.parts.part import Part
from graphsurgery.testing import parse


def part(x: str, nodes: str, y: str) -> Part:
    text = f'<ir_version: 8, opset_import: ["": 17]> g ({x}) => ({y}) {{ {nodes} }}'
    return Part("net", "npu", True, Model(parse(text)))


@pytest.mark.parametrize(
    ("x", "nodes", "y", "cure"),
    [
        ("float[n, 4] x", "y = Relu (x)", "float[n, 4] y", "put freeze-batch among its part_passes"),
        (
            "float[1, 3, h, w] x",
            "y = Relu (x)",
            "float[1, 3, h, w] y",
            "put freeze-shapes among the passes, with a size",
        ),
        (
            "float[1, 4] x",
            "z = NonZero (x)  y = Neg (z)",
            "int64[2, n] y",
            "its inputs are, so that a node in it computes",
        ),
    ],
)
def test_the_cure_is_for_what_is_open_not_for_what_was_frozen(x: str, nodes: str, y: str, cure: str) -> None:
    with pytest.raises(ModelError, match=r"part 'net' is for npu but not static: ") as caught:
        certify_static(part(x, nodes, y))
    assert str(caught.value).partition("; ")[2].startswith(cure)
