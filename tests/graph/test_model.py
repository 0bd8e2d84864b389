import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

from graphsurgery.devices import session
from graphsurgery.errors import ModelError
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import stored_outside
from graphsurgery.testing import assert_same_outputs, parse

TEXT = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
        k = Constant <value = float[2] {3, 4}> ()
        a = Add (x, w)
        y = If (c) <
            then_branch = t () => (float[2] p) <float[2] v = {5, 6}> { p = Add (a, v) },
            else_branch = e () => (float[2] q) { q = Add (a, k) }
        >
    }"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(parse(TEXT).SerializeToString())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        Model.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- load ---------------------------------------------------------------------------------------------------------


def test_loads_what_was_saved(file: Path) -> None:
    model = Model.load(file)
    assert model.proto == parse(TEXT)
    assert (model.nodes, model.opset, model.folder) == (5, 17, file.parent)
    copy = file.parent / "deep" / "down" / "copy.onnx"
    model.save(copy)
    assert Model.load(copy).fingerprint == model.fingerprint


def test_nodes_of_one_name_get_others_where_a_file_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    twins = parse("""
        <ir_version: 9, opset_import: ["": 17, "own": 1]>
        g (float[2] x, bool c) => (float[2] y) {
            [head] a = Neg (x)
            [head_2] b = Abs (a)
            [head] d = own.F (b)
            e = Relu (d)
            f = Relu (e)
            [head] h = Exp (f)
            [if] y = If (c) <then_branch = t () => (float[2] u) { [head] u = Neg (h) },
                             else_branch = e () => (float[2] w) { [k] v = Neg (h)  [k] w = Neg (v) }>
        }
        <domain: "own", opset_import: ["": 17]> F (p) => (q) { [k] r = Neg (p)  [k] q = Neg (r) }""")
    path = tmp_path / "twins.onnx"
    path.write_bytes(twins.SerializeToString())
    with pytest.raises(ModelError, match="two nodes with same node name"):
        session.Session(path)
    model = Model.load(path)
    assert [node.name for node in model.proto.graph.node] == ["head", "head_2", "head_3", "", "", "head_4", "if"]
    x = np.array([1, -2], np.float32)
    y = session.run(model.proto, {"x": x, "c": np.array(True)})["y"]
    np.testing.assert_allclose(y, -np.exp(np.abs(x)), rtol=1e-6)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: nodes share names ('head', 'k'); all but the first of each get one of their own"
    ]


def test_an_output_of_split_without_a_name_gets_one_where_a_file_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = parse("""<ir_version: 8, opset_import: ["": 17]> g (float[3] x, float[4] Split_0) => (float[1] b)
        <int64[3] sizes = {1, 1, 1}> { a, b, c = Split (x, sizes) }""")
    model.graph.node[0].output[0] = model.graph.node[0].output[2] = ""
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    loaded = Model.load(tmp_path / "m.onnx")
    assert list(loaded.proto.graph.node[0].output) == ["Split_0_2", "b", "Split_2"]
    assert not loaded.as_in_file
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'm.onnx'}: 'Split' leaves out the name of an output, which gets one"
    ]


def test_nodes_in_no_valid_order_are_sorted_where_a_file_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right = parse("""
        <ir_version: 9, opset_import: ["": 17, "own": 1]>
        g (float[2] x, bool c) => (float[2] y) {
            first = Neg (x)
            a = Exp (first)
            b = own.F (a)
            y = If (c) <then_branch = t () => (float[2] u) { s = Abs (b)  u = Neg (s) },
                        else_branch = e () => (float[2] w) { w = Abs (a) }>
        }
        <domain: "own", opset_import: ["": 17]> F (p) => (q) { r = Neg (p)  q = Abs (r) }""")
    wrong = ModelProto()
    wrong.CopyFrom(right)
    branch = next(held.g for held in wrong.graph.node[3].attribute if held.name == "then_branch")
    for graph in (branch, wrong.graph, wrong.functions[0]):
        nodes = list(graph.node)[::-1]
        del graph.node[:]
        graph.node.extend(nodes)
    path = tmp_path / "wrong.onnx"
    path.write_bytes(wrong.SerializeToString())
    model = Model.load(path)
    assert model.proto == right
    assert not model.as_in_file
    model.check("model")
    note = f"{path}: its nodes are in no valid order; each now stands behind what it reads"
    assert [record.getMessage() for record in caplog.records] == [note]
    path.write_bytes(right.SerializeToString())
    assert Model.load(path).as_in_file
    assert len(caplog.records) == 1


def test_a_graph_with_a_circle_stays_as_it_is(file: Path) -> None:
    circle = parse(TEXT)
    circle.graph.node[1].input[0] = "y"
    file.write_bytes(circle.SerializeToString())
    assert Model.load(file).proto == circle


def test_refuses_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "can't be read" in refusal(tmp_path / "none.onnx")
    assert "can't be read" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"not a model at all\n",
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
        bytes(range(256)) * 8,
        b"\xff" * 1000,
        b"\x3a" * 1000,
        np.random.default_rng(0).bytes(5000),
        b"PK\x03\x04" + np.random.default_rng(1).bytes(500),
    ],
    ids=range(10),
)
def test_refuses_what_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert "ONNX" in refusal(path)


def test_refuses_a_file_that_is_cut_off_anywhere(file: Path) -> None:
    whole = parse(TEXT)
    data = whole.SerializeToString()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        assert "ONNX" in refusal(file)


@pytest.mark.parametrize("kind", ["graph", "tensor", "node", "value", "opset"])
def test_refuses_another_kind_of_onnx_message(tmp_path: Path, kind: str) -> None:
    proto = parse(TEXT)
    message = {
        "graph": proto.graph,
        "tensor": helper.make_tensor("weights", TensorProto.INT64, [3], [1, 2, 3]),
        "node": proto.graph.node[2],
        "value": proto.graph.input[0],
        "opset": proto.opset_import[0],
    }[kind]
    path = tmp_path / "m.onnx"
    path.write_bytes(message.SerializeToString())
    assert "ONNX" in refusal(path)


# --- external data ------------------------------------------------------------------------------------------------


def outside(tensor: TensorProto, *locations: str) -> None:
    """Let `tensor` keep its values in other files."""
    for field in ("raw_data", "float_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for location in locations:
        tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="length", value="8")


def sparse_tensor() -> SparseTensorProto:
    values = numpy_helper.from_array(np.array([5.0], np.float32), "s")
    where = numpy_helper.from_array(np.array([1], np.int64), "i")
    return helper.make_sparse_tensor(values, where, [3])


def sparse(proto: ModelProto) -> TensorProto:
    proto.graph.sparse_initializer.append(sparse_tensor())
    return proto.graph.sparse_initializer[0].values


def sparse_attribute(proto: ModelProto) -> TensorProto:
    proto.graph.node[0].attribute.append(helper.make_attribute("a", sparse_tensor()))
    return proto.graph.node[0].attribute[-1].sparse_tensor.indices


def listed(proto: ModelProto) -> TensorProto:
    proto.graph.node[0].attribute.append(helper.make_attribute("a", [proto.graph.initializer[0]]))
    return proto.graph.node[0].attribute[-1].tensors[0]


def in_function(proto: ModelProto) -> TensorProto:
    nodes = [parse(TEXT).graph.node[0]]
    opset = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("my", "F", [], ["k"], nodes, opset))
    return proto.functions[0].node[0].attribute[0].t


def in_training(proto: ModelProto) -> TensorProto:
    proto.training_info.add().algorithm.CopyFrom(proto.graph)
    return proto.training_info[0].algorithm.initializer[0]


PLACES: dict[str, Callable[[ModelProto], TensorProto]] = {
    "an initializer": lambda p: p.graph.initializer[0],
    "a constant": lambda p: p.graph.node[0].attribute[0].t,
    "a body's initializer": lambda p: p.graph.node[2].attribute[0].g.initializer[0],
    "a list of tensors": listed,
    "a sparse initializer": sparse,
    "a sparse attribute": sparse_attribute,
    "a function": in_function,
    "training information": in_training,
}


@pytest.mark.parametrize("place", PLACES)
def test_refuses_external_data_outside_its_folder_wherever_it_is(file: Path, place: str) -> None:
    proto = parse(TEXT)
    outside(PLACES[place](proto), "../secret.bin")
    file.write_bytes(proto.SerializeToString())
    assert "outside the model's folder" in refusal(file)
    assert len(stored_outside(proto)) == 1


@pytest.mark.parametrize(
    "location",
    [
        "..",
        "../secret.bin",
        "sub/../../secret.bin",
        "..\\secret.bin",
        "/etc/passwd",
        "\\\\server\\share\\x",
        "C:\\x.bin",
        "C:x.bin",
        "//server/share/x",
        "",
    ],
)
def test_refuses_a_location_outside_its_folder(file: Path, location: str) -> None:
    proto = parse(TEXT)
    outside(proto.graph.initializer[0], location)
    file.write_bytes(proto.SerializeToString())
    assert "outside the model's folder" in refusal(file)


@pytest.mark.parametrize("location", ["none.bin", ".", "sub"])
def test_refuses_external_data_that_is_missing_or_no_file(file: Path, location: str) -> None:
    (file.parent / "sub").mkdir()
    proto = parse(TEXT)
    outside(proto.graph.initializer[0], location)
    file.write_bytes(proto.SerializeToString())
    assert "missing" in refusal(file)


@pytest.mark.parametrize("location", ["a\0b", "x" * 5000])
def test_refuses_a_location_that_no_file_can_have(file: Path, location: str) -> None:
    proto = parse(TEXT)
    outside(proto.graph.initializer[0], location)
    file.write_bytes(proto.SerializeToString())
    refusal(file)


def test_refuses_two_locations_and_none(file: Path) -> None:
    (file.parent / "ok.bin").write_bytes(bytes(8))
    for locations in (["ok.bin", "../secret.bin"], []):
        proto = parse(TEXT)
        outside(proto.graph.initializer[0], *locations)
        file.write_bytes(proto.SerializeToString())
        assert f"{len(locations)} locations" in refusal(file)


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
def test_refuses_a_symbolic_link_out_of_the_folder_and_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "loop.bin").symlink_to(folder / "loop.bin")
    (folder / "inner.bin").write_bytes(bytes(8))
    (folder / "fine.bin").symlink_to(folder / "inner.bin")
    proto = parse(TEXT)
    for location, accepted in (("link.bin", False), ("loop.bin", False), ("fine.bin", True)):
        outside(proto.graph.initializer[0], location)
        (folder / "m.onnx").write_bytes(proto.SerializeToString())
        if accepted:
            Model.load(folder / "m.onnx")
        else:
            refusal(folder / "m.onnx")


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
def test_loads_external_data_through_a_link_to_the_folder(tmp_path: Path) -> None:
    proto = parse(TEXT)
    outside(proto.graph.initializer[0], "w.bin")
    real = tmp_path / "real"
    real.mkdir()
    (real / "w.bin").write_bytes(np.array([1, 2], np.float32).tobytes())
    (real / "m.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "link").symlink_to(real, target_is_directory=True)
    model = Model.load(tmp_path / "link" / "m.onnx")
    model.save(tmp_path / "link" / "again.onnx")
    assert (real / "again.onnx").is_file()


def test_a_model_with_external_data_stays_in_its_folder(file: Path, tmp_path: Path) -> None:
    proto = parse(TEXT)
    outside(proto.graph.initializer[0], "w.bin")
    (tmp_path / "w.bin").write_bytes(bytes(8))
    file.write_bytes(proto.SerializeToString())
    model = Model.load(file)
    model.save(tmp_path / "other.onnx")
    other = tmp_path / "other" / "m.onnx"
    for each in (model, Model(model.proto)):
        with pytest.raises(ModelError, match=r"w\.bin|save it in"):
            each.save(other)
        assert not other.exists()
    Model(model.proto).save(tmp_path / "third.onnx")


def test_external_data_is_read_in(file: Path) -> None:
    proto = parse(TEXT)
    expected = Model(parse(TEXT))
    for tensor in (proto.graph.initializer[0], proto.graph.node[2].attribute[0].g.initializer[0]):
        values = numpy_helper.to_array(tensor)
        outside(tensor, f"{tensor.name}.bin")
        (file.parent / f"{tensor.name}.bin").write_bytes(values.tobytes())
    file.write_bytes(proto.SerializeToString())
    inside = Model.load(file).with_values_inside()
    assert not stored_outside(inside.proto)
    inside.check("the model")
    assert_same_outputs(expected.proto, inside.proto)
    inside.save(file.parent / "elsewhere" / "m.onnx")
    assert expected.with_values_inside() is expected


def test_external_data_that_can_not_be_read_in_is_refused(file: Path) -> None:
    proto = parse(TEXT)
    outside(proto.graph.initializer[0], "w.bin")
    file.write_bytes(proto.SerializeToString())
    (file.parent / "w.bin").write_bytes(bytes(8))
    model = Model.load(file)
    (file.parent / "w.bin").unlink()
    with pytest.raises(ModelError, match="tensor 'w' can't be read"):
        model.with_values_inside()
    (file.parent / "w.bin").write_bytes(bytes(3))
    with pytest.raises(ModelError, match="tensor 'w' can't be read"):
        model.with_values_inside()


# --- save ---------------------------------------------------------------------------------------------------------


def test_a_failing_save_leaves_the_old_file_and_nothing_else(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = file.read_bytes()
    model = Model.load(file)

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ModelError, match="No space left"):
        model.save(file)
    monkeypatch.undo()
    assert file.read_bytes() == expected
    assert leftovers(file.parent) == ["m.onnx"]


def test_an_interrupted_save_leaves_the_old_file_and_nothing_else(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = file.read_bytes()
    model = Model.load(file)

    def interrupted(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.save(file)
    monkeypatch.undo()
    assert file.read_bytes() == expected
    assert leftovers(file.parent) == ["m.onnx"]


def test_refuses_to_save_where_it_can_not(file: Path) -> None:
    model = Model.load(file)
    (file.parent / "folder").mkdir()
    for target in (file / "below_a_file.onnx", file / "a" / "b.onnx", file.parent / "folder"):
        with pytest.raises(ModelError, match="can't be written") as caught:
            model.save(target)
        assert "\n" not in str(caught.value)
    assert leftovers(file.parent) == ["folder", "m.onnx"]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root and Windows ignore these permissions")
def test_refuses_to_save_in_a_folder_without_permission(file: Path) -> None:
    model = Model.load(file)
    closed = file.parent / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(ModelError, match="can't be written"):
        model.save(closed / "m.onnx")


# --- fingerprint and check ----------------------------------------------------------------------------------------


def changed(change: Callable[[ModelProto], None]) -> str:
    proto = parse(TEXT)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([1, 2], np.float32), "w"))
    change(proto)
    return Model(proto).fingerprint


def flip(proto: ModelProto) -> None:
    data = bytearray(proto.graph.initializer[0].raw_data)
    data[0] ^= 1
    proto.graph.initializer[0].raw_data = bytes(data)


def set_to(path: str, value: object) -> Callable[[ModelProto], None]:
    def change(proto: ModelProto) -> None:
        target: object = proto
        *way, last = path.split(".")
        for step in way:
            target = target[int(step)] if step.isdigit() else getattr(target, step)  # type: ignore[index]
        setattr(target, last, value)

    return change


CHANGES: dict[str, Callable[[ModelProto], None]] = {
    "one bit of a weight": flip,
    "the type of a weight": set_to("graph.initializer.0.data_type", TensorProto.INT32),
    "the name of a weight": set_to("graph.initializer.0.name", "v"),
    "the doc string of a weight": set_to("graph.initializer.0.doc_string", "d"),
    "the shape of a weight": lambda p: p.graph.initializer[0].dims.insert(0, 1),
    "a weight more": lambda p: p.graph.initializer.append(p.graph.initializer[0]),
    "a constant": set_to("graph.node.0.attribute.0.t.raw_data", bytes(8)),
    "a weight in a body": lambda p: p.graph.node[2].attribute[0].g.initializer[0].float_data.append(1),
    "the name of a node": set_to("graph.node.0.name", "n"),
    "an operator": set_to("graph.node.1.op_type", "Mul"),
    "the name of a tensor": lambda p: p.graph.node[1].input.__setitem__(0, "z"),
    "the name of the graph": set_to("graph.name", "h"),
    "a note": lambda p: onnx.helper.set_model_props(p, {"k": "v"}),
    "the IR version": set_to("ir_version", 9),
    "the opset": set_to("opset_import.0.version", 18),
    "a function": lambda p: in_function(p) and None,
}


def test_equal_models_have_one_fingerprint() -> None:
    assert changed(lambda proto: None) == changed(lambda proto: None)


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_tells(change: str) -> None:
    assert changed(CHANGES[change]) != changed(lambda proto: None)


def test_fingerprints_do_not_run_names_types_and_sizes_together() -> None:
    def weight(name: str, kind: int) -> str:
        proto = parse(TEXT)
        proto.graph.initializer[0].CopyFrom(TensorProto(name=name, data_type=kind, dims=[2], raw_data=bytes(16)))
        return Model(proto).fingerprint

    assert weight("w", 11) != weight("w1", 1)


def test_check_names_the_model_and_what_is_wrong_in_one_line() -> None:
    proto = parse(TEXT)
    Model(proto).check("the model")
    proto.graph.node[1].input[0] = "nowhere"
    with pytest.raises(ModelError, match=r"^the part: not a valid ONNX model: .*nowhere") as caught:
        Model(proto).check("the part")
    assert "\n" not in str(caught.value)


def test_a_model_that_only_imports_another_domain_has_opset_1() -> None:
    text = '<ir_version: 8, opset_import: ["my": 2]> g (float[1] x) => (float[1] y) { y = my.Op (x) }'
    assert Model(parse(text)).opset == 1
