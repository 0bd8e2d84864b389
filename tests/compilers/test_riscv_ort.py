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
OUTPUTS = {"6568": Tensor(shape=["n", 3], dtype="float32"), "labels:0": Tensor(shape=["n"], dtype="int64")}


def test_test_data_is_as_backend_tests_have_it(tmp_path: Path) -> None:
    made = job(GRAPH, tmp_path, image=None)
    RiscvOrt(accelerator=2).write(made)
    call = 'ort_test -m "$here/network.onnx" -i "$image" -x 2 -O 99 -d 0) || exit'
    assert (tmp_path / "run.sh").read_text().splitlines()[-3].endswith(call)
    for number in range(2):
        RiscvOrt().write_sample(made, sample(number, x=np.array([1, number], np.float32)))
    read = onnx.load_tensor(tmp_path / "test_data_set_1" / "input_0.pb")
    assert read.name == "x"
    assert numpy_helper.to_array(read).tolist() == [1, 1]
    expected = onnx.load_tensor(tmp_path / "test_data_set_1" / "output_0.pb")
    assert numpy_helper.to_array(expected).tolist() == [0, 1, 2, 3]


def test_raw_results_are_read_by_the_names_of_outputs_or_those_that_the_runner_gives(tmp_path: Path) -> None:
    place = tmp_path / "test_data_set_3"
    place.mkdir()
    for names, compiler in (
        (("6568", "labels_0"), RiscvOrt()),
        (("boxes", "labels"), RiscvOrt(files=("boxes", "labels"))),
    ):
        np.arange(6, dtype=np.float32).tofile(place / f"{names[0]}.data")
        np.arange(2).tofile(place / f"{names[1]}.data")
        found = compiler.read_outputs(tmp_path, 3, "photo", OUTPUTS)
        assert found["6568"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert found["labels:0"].tolist() == [0, 1]
    outputs = {"6568": Tensor(shape=[2, 2], dtype="float32")}
    with pytest.raises(InputError, match=r"6568\.data: has 24 bytes, and output '6568' is float32 \[2, 2\]"):
        RiscvOrt().read_outputs(tmp_path, 3, "photo", outputs)
    with pytest.raises(InputError, match=r"boxes\.data: can't be read"):
        RiscvOrt(files=("boxes", "labels")).read_outputs(tmp_path, 4, "photo", OUTPUTS)


def test_results_may_also_be_test_data(tmp_path: Path) -> None:
    place = tmp_path / "test_data_set_0"
    place.mkdir()
    for index, values in enumerate((np.ones((2, 3), np.float32), np.arange(2))):
        (place / f"output_{index}.pb").write_bytes(numpy_helper.from_array(values, "").SerializeToString())
    found = RiscvOrt().read_outputs(tmp_path, 0, "photo", OUTPUTS)
    assert [values.shape for values in found.values()] == [(2, 3), (2,)]
    for wrong, said in (
        (
            numpy_helper.from_array(np.ones((2, 4), np.float32), ""),
            r"holds a tensor, float32 \[2, 4\], and output '6568'",
        ),
        (numpy_helper.from_array(np.ones((2, 3), np.float32), "scores"), "holds scores, float32"),
        (numpy_helper.from_array(np.ones((2, 3), np.float64), ""), "holds a tensor, float64"),
    ):
        (place / "output_0.pb").write_bytes(wrong.SerializeToString())
        with pytest.raises(InputError, match=said):
            RiscvOrt().read_outputs(tmp_path, 0, "photo", OUTPUTS)
    (place / "output_0.pb").write_bytes(b"\xff\xff")
    with pytest.raises(InputError, match=r"output_0\.pb: holds no tensor"):
        RiscvOrt().read_outputs(tmp_path, 0, "photo", OUTPUTS)


def test_files_are_as_many_as_outputs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="files names 2 results; the outputs are y"):
        RiscvOrt(files=("boxes", "labels")).write(job(GRAPH, tmp_path, image=None))


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/passwd", "a/b", ""])
def test_a_result_is_named_by_no_path(name: str) -> None:
    with pytest.raises(ValueError, match="must be the name of a file, and no path"):
        RiscvOrt(files=("boxes", name))
