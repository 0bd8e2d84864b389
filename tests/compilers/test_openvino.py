from pathlib import Path

import numpy as np
import pytest

from graphsurgery.compilers.openvino import OpenVino
from graphsurgery.compiling.feeds import Feeding, Played
from graphsurgery.compiling.report import read_report
from graphsurgery.errors import InputError, MissingTool

from .parts import job

NET = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 1, 4, 6] x) => (float[1, 1, 4, 6] y) <float[1, 1, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> {
        a = Conv <pads = [1, 1, 1, 1]> (x, w)
        y = Relu (a)
    }"""


def test_a_missing_toolchain_is_one_line_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHSURGERY_CACHE", str(tmp_path / "none"))
    with pytest.raises(MissingTool, match="python -m graphsurgery toolchain install openvino"):
        OpenVino().run(job(NET, tmp_path / "job"))


def test_an_npu_wants_numbers_for_all_sizes(tmp_path: Path) -> None:
    net = NET.replace("float[1, 1, 4, 6]", "float[N, 1, 4, 6]")
    OpenVino().write(job(net, tmp_path))
    with pytest.raises(InputError, match="freeze-batch"):
        OpenVino(device="NPU").write(job(net, tmp_path))
    with pytest.raises(ValueError, match="samples must be 1 or more"):
        OpenVino(samples=0)


@pytest.mark.toolchain("openvino")
def test_a_part_computes_the_same_there(tmp_path: Path) -> None:
    made, compiler = job(NET, tmp_path), OpenVino()
    made.model.save(tmp_path / made.file)
    samples = [Played(str(n), {"x": np.full((1, 1, 4, 6), n, np.float32)}) for n in range(1, 4)]
    feeding = Feeding.of(made, samples, 2)
    compiler.write(made)
    feeding.write()
    assert compiler.run(made)
    report = read_report(tmp_path, "part")
    assert report.accelerated
    assert not report.left
    found = feeding.compare(lambda done, total: None)
    assert found is not None
    assert found["y"] > 100
    assert {"network.xml", "network.bin"} <= {path.name for path in tmp_path.iterdir()}
    OpenVino(device="NPU").write(made)
    with pytest.raises(MissingTool, match="sees no NPU here"):
        compiler.run(made)
