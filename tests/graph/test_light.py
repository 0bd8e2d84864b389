from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from graphsurgery.graph.light import read_light
from graphsurgery.testing import parse

TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
    a = Add (x, w)
    y = If (c) <then_branch = t () => (float[2] p) { p = Neg (a) }, else_branch = e () => (float[2] q) { q = Abs (a) }>
}"""


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def test_all_but_large_weights_is_read(tmp_path: Path) -> None:
    model = parse(TEXT)
    small = read_light(saved(tmp_path, model))
    assert small == model
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(20_000, np.float32), "large"))
    assert read_light(saved(tmp_path, model)) == small


def test_the_models_of_onnx_are_read_as_protobuf_reads_them() -> None:
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data"
    paths = sorted(folder.rglob("model.onnx"))[::5]
    assert len(paths) > 20
    for path in paths:
        assert read_light(path) == onnx.load(path)


@pytest.mark.parametrize("content", [b"\xff" * 12, b"\x3a\x7f\x0a", b"\x0b", b"\x3a\x02\x2a\x40"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(DecodeError):
        read_light(tmp_path / "m.onnx")


def test_an_empty_file_is_an_empty_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    assert read_light(tmp_path / "m.onnx") == onnx.ModelProto()
