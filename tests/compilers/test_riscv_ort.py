from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphsurgery.compilers.riscv_ort import RiscvOrt
from graphsurgery.errors import InputError
from graphsurgery.parts.manifest import Tensor

from .parts import job, sample

GRAPH = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Neg (x) }'


def test_test_data_is_as_backend_tests_have_it(tmp_path: Path) -> None:
    made = job(GRAPH, tmp_path, image=None)
    RiscvOrt(accelerator=2).write(made)
    assert (tmp_path / "run.sh").read_text().splitlines()[-1] == 'ort_test -m network.onnx -i "$1" -x 2 -O 99 -d 0'
    for number in range(2):
        RiscvOrt().write_sample(made, sample(number, x=np.array([1, number], np.float32)))
    read = onnx.load_tensor(tmp_path / "test_data_set_1" / "input_0.pb")
    assert read.name == "x"
    assert numpy_helper.to_array(read).tolist() == [1, 1]
    expected = onnx.load_tensor(tmp_path / "test_data_set_1" / "output_0.pb")
    assert numpy_helper.to_array(expected).tolist() == [0, 1, 2, 3]


def test_raw_results_are_read(tmp_path: Path) -> None:
    (tmp_path / "test_data_set_3").mkdir()
    np.arange(6, dtype=np.float32).tofile(tmp_path / "test_data_set_3" / "boxes_0.data")
    outputs = {"boxes:0": Tensor(shape=[2, 3], dtype="float32")}
    assert RiscvOrt().read_outputs(tmp_path, 3, "photo", outputs)["boxes:0"].tolist() == [[0, 1, 2], [3, 4, 5]]
    outputs = {"boxes:0": Tensor(shape=[2, 2], dtype="float32")}
    with pytest.raises(InputError, match=r"boxes_0\.data: has 24 bytes, and output 'boxes:0' is float32 \[2, 2\]"):
        RiscvOrt().read_outputs(tmp_path, 3, "photo", outputs)
