"""Weights in other files: referred to, mapped when they are asked for, copied without being read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from graphsurgery.devices import session
from graphsurgery.errors import ModelError
from graphsurgery.files import ranges
from graphsurgery.graph import door, outside
from graphsurgery.graph.model import Model
from graphsurgery.testing import parse

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,64] x) => (float[1,64] y) <float[1] w = {0}, float[1] b = {0}> { h = MatMul(x, w)  y = Add(h, b) }"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    proto = parse(TEXT)
    random = np.random.default_rng(0)
    del proto.graph.initializer[:]
    proto.graph.initializer.append(numpy_helper.from_array(random.random((64, 64), np.float32), "w"))
    proto.graph.initializer.append(numpy_helper.from_array(random.random(64, np.float32), "b"))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    return path


def weight(model: Model) -> TensorProto:
    return next(tensor for tensor in model.proto.graph.initializer if tensor.name == "w")


def computed(proto: onnx.ModelProto) -> np.ndarray:
    return session.run(proto, {"x": np.ones((1, 64), np.float32)})["y"]


def test_a_large_weight_is_a_reference_that_holds_anywhere_and_a_small_one_is_read_in(file: Path) -> None:
    model = Model.load(file).bound()
    assert model.folder is None
    assert [outside.is_bound(tensor) for tensor in model.proto.graph.initializer] == [True, False]
    assert model.bound() is model
    model.check("it")
    np.testing.assert_array_equal(computed(model.proto), computed(Model.load(file).with_values_inside().proto))
    assert weight(model).data_location == TensorProto.EXTERNAL


def test_what_is_written_to_a_mapped_weight_does_not_reach_its_file(file: Path) -> None:
    before = (file.parent / "m.bin").read_bytes()
    values = outside.array_of(weight(Model.load(file).bound()))
    values[0, 0] = 9
    assert (file.parent / "m.bin").read_bytes() == before


def test_a_file_that_is_changed_meanwhile_is_noticed(file: Path) -> None:
    model = Model.load(file).bound()
    os.utime(file.parent / "m.bin", ns=(1, 1))
    assert Model.load(file).bound().fingerprint != model.fingerprint
    with pytest.raises(ModelError, match=r"tensor 'w' can't be read: .* was changed meanwhile"):
        model.with_values_inside()
    with pytest.raises(ModelError, match="was changed meanwhile"):
        model.save(file.parent / "out" / "m.onnx", 0)
    assert list((file.parent / "out").iterdir()) == []


def test_values_that_do_not_fit_the_shape_are_refused(file: Path) -> None:
    proto = onnx.load(file, load_external_data=False)
    proto.graph.initializer[0].dims[:] = [64, 65]
    file.write_bytes(proto.SerializeToString())
    with pytest.raises(
        ModelError, match=r"'w' can't be read: its shape \[64, 65\] takes 16640 bytes, and it has 16384"
    ):
        Model.load(file).bound()


@pytest.mark.parametrize("by_kernel", [True, False])
def test_from_a_size_on_weights_are_written_into_a_file_of_their_own(
    file: Path, by_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not by_kernel:
        monkeypatch.setattr(ranges, "_by_the_kernel", lambda *given: 0)
    model = Model.load(file).bound()
    out = file.parent / "out"
    model.save(out / "one.onnx", model.size + 1)
    model.save(out / "two.onnx", model.size)
    assert sorted(path.name for path in out.iterdir()) == ["one.onnx", "two.onnx", "two.onnx.data"]
    expected = computed(onnx.load(file))
    for name in ("one.onnx", "two.onnx"):
        onnx.checker.check_model(str(out / name))
        np.testing.assert_array_equal(computed(onnx.load(out / name)), expected)


def test_a_changed_weight_goes_into_the_same_file(file: Path) -> None:
    model = Model.load(file).bound()
    graph = model.graph()
    constant = graph.nodes[0].inputs[1]
    constant.values[0, 0] = 9
    after = Model.of(graph)
    assert not outside.is_outside(weight(after))
    after.save(file.parent / "out.onnx", 0)
    written = Model.load(file.parent / "out.onnx").bound()
    values = outside.array_of(weight(written))
    assert values[0, 0] == 9
    assert np.array_equal(values[1:], outside.array_of(weight(model))[1:])


def test_a_model_is_written_over_itself(file: Path) -> None:
    expected = computed(onnx.load(file))
    Model.load(file).bound().save(file, 0)
    Model.load(file).bound().save(file, 0)
    np.testing.assert_array_equal(computed(onnx.load(file)), expected)


def test_a_disk_that_fills_up_leaves_the_old_pair(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = file.parent / "out"
    Model.load(file).bound().save(out / "m.onnx", 0)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outside, "append_range", full)
    with pytest.raises(ModelError, match=r"m\.onnx: can't be written \(No space left on device\)"):
        Model.load(file).bound().save(out / "m.onnx", 0)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_changed_weights_above_what_a_message_holds_are_checked_without_their_values(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(onnx.load(file))
    seen = []
    monkeypatch.setattr(onnx.checker, "check_model", seen.append)
    model.check("it")
    monkeypatch.setattr(door, "MAX_BYTES", 1000)
    model.check("it")
    assert [[tensor.name for tensor in each.graph.initializer] for each in seen] == [["w", "b"], ["b"]]
    assert [info.name for info in seen[1].graph.input] == ["x", "w"]


def test_more_than_a_message_holds_is_refused_with_its_size(file: Path) -> None:
    proto = onnx.load(file, load_external_data=False)
    proto.graph.initializer[0].dims[:] = [30_000, 30_000]
    with pytest.raises(ModelError, match=r"3\.6 GB of weights can't be handed over as one message"):
        Model(proto, file.parent).with_values_inside()
