"""Models that no command can work on are refused as they are read, in one line that says why."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper

from graphsurgery.errors import ModelError
from graphsurgery.graph import door
from graphsurgery.graph.model import Model
from graphsurgery.testing import parse

PLAIN = """<ir_version: 8, opset_import: ["": 17, "loc": 1]>
    g (float[2] x) => (float[N] y) <float[2] w = {1, 2}> { a = Add (x, w)  y = Neg (a) }"""


def with_functions(*bodies: str, call: str = "f0") -> ModelProto:
    """Return a model that calls the first of several functions, whose nodes are given."""
    made = [
        f'<opset_import: ["": 17, "loc": 1], domain: "loc"> f{number} (x) => (y) {{ {body} }}'
        for number, body in enumerate(bodies)
    ]
    head = '<ir_version: 8, opset_import: ["": 17, "loc": 1]>'
    return parse(f"{head} g (float[2] x) => (float[2] y) {{ y = loc.{call} (x) }} {' '.join(made)}")


def doubling(levels: int) -> ModelProto:
    calls = [f"a = loc.f{n + 1} (x)  y = loc.f{n + 1} (a)" for n in range(levels)]
    return with_functions(*calls, "y = Neg (x)")


def chain(levels: int) -> ModelProto:
    return with_functions(*(f"y = loc.f{n + 1} (x)" for n in range(levels - 1)), "y = Neg (x)")


def changed(change: Callable[[ModelProto], object]) -> ModelProto:
    proto = parse(PLAIN)
    change(proto)
    return proto


def nested(levels: int) -> bytes:
    """Return the bytes of a model with Ifs one inside the other, which protobuf lets nobody build."""

    def field(number: int, data: bytes) -> bytes:
        size, varint = len(data), b""
        while size > 127:
            varint += bytes([size & 127 | 128])
            size >>= 7
        return bytes([number << 3 | 2]) + varint + bytes([size]) + data

    graph = b""
    for _ in range(levels):
        attribute = field(1, b"then_branch") + field(6, graph) + bytes([20 << 3 | 128, 1, AttributeProto.GRAPH])
        graph = field(1, field(2, b"y") + field(4, b"If") + field(5, attribute))
    return field(7, graph) + field(8, bytes([2 << 3, 17]))


def refusal(proto: ModelProto | bytes, folder: Path) -> str:
    path = folder / "m.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    with pytest.raises(ModelError) as caught:
        Model.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def dim(proto: ModelProto, *sizes: int) -> None:
    shape = proto.graph.input[0].type.tensor_type.shape
    shape.ClearField("dim")
    for size in sizes:
        shape.dim.add(dim_value=size)


def graph_in_an_int(proto: ModelProto) -> None:
    proto.graph.node[0].attribute.append(AttributeProto(name="a", type=AttributeProto.INT, g=proto.graph))


def body_and_reference(proto: ModelProto) -> None:
    attribute = AttributeProto(name="then_branch", type=AttributeProto.GRAPH, g=proto.graph, ref_attr_name="w")
    proto.graph.node[0].attribute.append(attribute)


def not_utf8(field: str) -> bytes:
    """Return a model with a byte that no UTF-8 has, in the place of a mark that `field` is."""
    data = PLAIN.replace(field, "MARK").replace("MARK MARK", "MARK")
    return parse(data).SerializeToString().replace(b"MARK", b"MA\xffK")


@pytest.mark.parametrize(
    ("proto", "said"),
    [
        (with_functions("y = loc.f0 (x)"), "a function calls itself, so that it can't be expanded: loc::f0 > loc::f0"),
        (with_functions("y = loc.f1 (x)", "y = loc.f2 (x)", "y = loc.f1 (x)"), "loc::f1 > loc::f2 > loc::f1"),
        (doubling(30), f"{3 * 2**30 - 1} nodes, its functions expanded; 1000000 are the most"),
        (chain(101), "its functions call each other 101 deep; 100 is the most"),
        (changed(lambda p: p.functions.extend([chain(1).functions[0]] * 2)), "two of its functions have one name"),
        (changed(lambda p: dim(p, *[1] * 33)), "a tensor has 33 dimensions; 32 are the most"),
        (changed(lambda p: dim(p, 1 << 31)), "a tensor of the shape [2147483648] is larger"),
        (changed(lambda p: dim(p, 1 << 30, 1 << 30)), "is larger than any that can be worked on"),
        (changed(lambda p: p.graph.initializer[0].dims.append(1 << 62)), "tensor 'w': a tensor of the shape [2, 4611"),
        (changed(lambda p: p.graph.initializer[0].dims.append(-1)), "tensor 'w' has the shape [2, -1]"),
        (changed(lambda p: setattr(p.graph.initializer[0], "data_type", 99)), "tensor 'w': element type 99 is not one"),
        (changed(lambda p: setattr(p.graph.input[0].type.tensor_type, "elem_type", 99)), "element type 99 is not one"),
        (changed(lambda p: setattr(p.opset_import[0], "version", 1 << 40)), "domain '' has no version 1099511627776"),
        (changed(lambda p: p.graph.node.append(p.graph.node[0])), "'a' is written twice, and a tensor is written once"),
        (
            changed(lambda p: p.graph.node.add(op_type="Concat", input=["a", "w"])),
            "node one that reads a, w (Concat) has no output; remove it",
        ),
        (changed(body_and_reference), "attribute 'then_branch' stands for one of a function and holds a body"),
        (changed(graph_in_an_int), "attribute 'a' is of one type and holds another"),
        (nested(40), "its bodies are nested deeper than the 32 levels that protobuf reads"),
        (not_utf8("N"), "in a Dimension is not UTF-8"),
        (not_utf8("w"), "is not UTF-8, as ONNX demands; rename it"),
        (not_utf8("Neg"), "the text b'MA\\xffK' in a Node is not UTF-8"),
    ],
)
def test_what_can_not_be_worked_on_is_refused(tmp_path: Path, proto: ModelProto | bytes, said: str) -> None:
    assert said in refusal(proto, tmp_path)


def test_nodes_are_counted_with_those_of_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MAX_NODES", 2)
    assert "4 nodes, its functions expanded" in refusal(with_functions("a = Neg (x) b = Neg (a) y = Neg (b)"), tmp_path)
    monkeypatch.setattr(door, "MAX_NODES", 1)
    assert "2 nodes; 1 are the most" in refusal(parse(PLAIN), tmp_path)


@pytest.mark.parametrize(
    "proto",
    [
        doubling(10),
        chain(100),
        nested(31),
        with_functions("y = loc.f1 (x)", "y = loc.unknown (x)"),
        changed(lambda p: dim(p, -1)),  # how some exporters write a size that is not known
        changed(lambda p: dim(p, 0, (1 << 31) - 1)),
        changed(lambda p: p.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.FLOAT, [0], []))),
    ],
    ids=range(7),
)
def test_what_is_only_unusual_is_let_in(tmp_path: Path, proto: ModelProto | bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    assert Model.load(path).nodes


@pytest.mark.parametrize(
    ("span", "said"),
    [
        ({"offset": "4", "length": "8"}, "which has 8 bytes: offset 4, length 8"),
        ({"offset": "9"}, "which has 8 bytes"),
        ({"length": str(1 << 60)}, "which has 8 bytes"),
        ({"offset": "-4"}, "offset -4"),
        ({"length": "٨"}, "length ٨"),
        ({"length": "9" * 5000}, "length 999"),
    ],
)
def test_external_data_must_be_in_its_file(tmp_path: Path, span: dict[str, str], said: str) -> None:
    (tmp_path / "w.bin").write_bytes(np.zeros(2, np.float32).tobytes())
    proto = parse(PLAIN)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", **span}.items():
        tensor.external_data.add(key=key, value=value)
    message = refusal(proto, tmp_path)
    assert "the external data of tensor 'w' is not in 'w.bin'" in message
    assert said in message


def test_every_message_of_a_model_is_looked_at(tmp_path: Path) -> None:
    """A new kind of body, or of text, must not come in unseen: each message that may be damaged is."""
    proto = parse(PLAIN)
    proto.training_info.add().algorithm.input.add(name="x").type.sequence_type.elem_type.tensor_type.elem_type = 99
    assert "element type 99" in refusal(proto, tmp_path)
    assert onnx.ModelProto.FromString((tmp_path / "m.onnx").read_bytes()) == proto
