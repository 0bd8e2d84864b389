import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphsurgery.compilers import ethos_u
from graphsurgery.compilers.ethos_u import EthosU
from graphsurgery.compiling.feeds import Feeding, Played
from graphsurgery.compiling.report import read_report
from graphsurgery.errors import InputError, MissingTool

from .parts import job

NET = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 8, 12] x) => (float[1, 4, 8, 12] y) <float[4, 3, 3, 3] w> {
        a = Conv <pads = [1, 1, 1, 1]> (x, w)
        y = Relu (a)
    }"""


def net(folder: Path) -> Any:
    """A job of a network whose exporter writes slashes."""
    made = job(NET.replace("<float[4, 3, 3, 3] w>", "").replace("(x, w)", "(x, x)"), folder)
    proto = made.model.proto
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "/conv/w"))
    conv, relu = proto.graph.node
    conv.input[1], conv.output[0], relu.input[0] = "/conv/w", "/conv/out", "/conv/out"
    conv.name, relu.name = "/conv/Conv", "/conv/Relu"
    return made


def test_names_are_ones_that_tensorflow_takes(tmp_path: Path) -> None:
    EthosU().write(net(tmp_path))
    written = onnx.load(tmp_path / "network.onnx")
    onnx.checker.check_model(written)
    assert [node.name for node in written.graph.node] == ["conv_Conv", "conv_Relu"]
    assert [list(node.input) for node in written.graph.node] == [["x", "conv_w"], ["conv_out"]]
    said = json.loads((tmp_path / "job.json").read_text())
    assert (said["inputs"], said["outputs"], said["precision"]) == (["x"], ["y"], "int8")


def test_vela_is_told_the_chip_and_its_memory(tmp_path: Path) -> None:
    (tmp_path / "chip.ini").write_text("[System_Config.Mine]\n")
    options = EthosU(
        "ethos-u65-512", config=tmp_path / "chip.ini", system_config="Mine", memory_mode="Sram", arena=4096
    )
    options.write(net(tmp_path / "job"))
    given = json.loads((tmp_path / "job" / "job.json").read_text())["vela"]
    assert " ".join(given) == (
        "--accelerator-config ethos-u65-512 --optimise Performance --config vela.ini "
        "--system-config Mine --memory-mode Sram --arena-cache-size 4096"
    )
    assert (tmp_path / "job" / "vela.ini").read_text() == "[System_Config.Mine]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NET.replace("float[1, 3, 8", "float[N, 3, 8"), "freeze-batch"),
        ("g (int64[1, 3] x) => (int64[1, 3] y) { y = Neg (x) }", "'x' is int64; onnx2tf makes integers of float32"),
    ],
)
def test_a_part_that_is_no_float_network_of_fixed_size_is_refused(tmp_path: Path, text: str, message: str) -> None:
    head = '<ir_version: 8, opset_import: ["": 17]> '
    text = text.replace("<float[4, 3, 3, 3] w>", "<float[4, 3, 1, 1] w = {1,1,1,1,1,1,1,1,1,1,1,1}>")
    with pytest.raises(InputError, match=message):
        EthosU().write(job(text if "ir_version" in text else head + text, tmp_path))


def test_options_that_are_none_are_refused(tmp_path: Path) -> None:
    for options in ({"samples": 0}, {"arena": 0}, {"memory_mode": "a b"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            EthosU(**options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"none.ini: can't be read \(No such file"):
        EthosU(config=tmp_path / "none.ini").write(net(tmp_path / "job"))


def test_a_missing_toolchain_is_one_line_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHSURGERY_CACHE", str(tmp_path / "none"))
    with pytest.raises(MissingTool, match=r"compiler 'ethos-u' needs .* python -m graphsurgery toolchain install vela"):
        EthosU().run(net(tmp_path / "job"))


@pytest.mark.parametrize(
    ("script", "limit", "message"),
    [
        ("import os; print('half way'); os._exit(9)", 60, "ends with 9: it says nothing|ends with 9: half way"),
        ("raise SystemExit('Vela ends with 1: no memory')", 60, "Vela ends with 1: no memory"),
        ("import time; time.sleep(60)", 1, "takes longer than 1 s"),
    ],
)
def test_a_tool_that_crashes_or_hangs_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, limit: int, message: str
) -> None:
    monkeypatch.setattr(ethos_u, "require", lambda name, place: Path(sys.executable))
    monkeypatch.setattr("graphsurgery.compiling.compiler._SECONDS", float(limit))
    made = net(tmp_path)
    made.write_text("compile.py", script)
    with pytest.raises(InputError, match=message):
        EthosU().run(made)


@pytest.mark.toolchain("vela")
def test_a_part_is_compiled_with_no_operator_on_the_cpu(tmp_path: Path) -> None:
    made, compiler = net(tmp_path), EthosU()
    random = np.random.default_rng(1)
    samples = [Played(str(n), {"x": random.standard_normal((1, 3, 8, 12)).astype(np.float32)}) for n in range(4)]
    feeding = Feeding.of(made, samples, 4)
    compiler.write(made)
    feeding.write()
    assert compiler.run(made)
    report = read_report(tmp_path, "part")
    assert (report.left, report.figures["accelerator"]) == ([], "Ethos_U55_256")
    assert report.accelerated
    assert int(report.figures["cycles"]) > 0
    found = feeding.compare(lambda done, total: None)
    assert found is not None
    assert found["y"] > 30
    tensors = json.loads((tmp_path / "tensors.json").read_text())
    assert (tensors["x"]["shape"], tensors["x"]["axes"]) == ([1, 8, 12, 3], [0, 2, 3, 1])
    assert (tensors["y"]["shape"], tensors["y"]["axes"]) == ([1, 8, 12, 4], [0, 3, 1, 2])
