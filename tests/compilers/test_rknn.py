"""RKNN: what is written for the toolkit, what its log says, and its simulator, with a toolkit that is made up.

The last test takes the real one, where it is installed.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bars import HEIGHT, WIDTH, write_images
from conftest import Cli, Snapshot

from graphsurgery.compilers import _rknn_simulator, rknn
from graphsurgery.compilers._rknn_table import layers_in
from graphsurgery.compilers.rknn import Rknn
from graphsurgery.compiling import Layer, compiler
from graphsurgery.devices.choices import parse_devices
from graphsurgery.errors import InputError, MissingTool
from graphsurgery.graph.model import Model
from graphsurgery.images.canvas import Canvas
from graphsurgery.parts.describe import describe_parts
from graphsurgery.parts.manifest import FILE_NAME
from graphsurgery.parts.part import Part
from graphsurgery.runtime.detector import Detector
from graphsurgery.testing import parse
from graphsurgery.toolchains import find_toolchain, tool_worker
from graphsurgery.toolchains.environment import look

from .parts import job, sample

FAKE = Path(__file__).parent / "fake_rknn"
NETWORK = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 8, 12] input) => (float[1, 4, 8, 12] y)
    <float[4, 3, 1, 1] w = {0.5, 1, 2, -1, 0.25, 1, 1, 1, 1, 0.5, -2, 1}> {
        [first] a = Conv (input, w)
        [second] y = Relu (a)
    }"""
GRAPH = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 4, 6] x) => (float[1, 3, 4, 6] y) { y = Relu (x) }"""
# from the log of rknn-toolkit2 2.5.0, with another model's names
LOG = """\
W RKNN: [19:30:01.616] Warning: Tensor rs_i1 need parameter qtype, type is set to float16 by default!
D RKNN: [19:30:02.411] ----------------------------------------------------------------------------------------
D RKNN: [19:30:02.411]                         Network Layer Information Table
D RKNN: [19:30:02.411] ----------------------------------------------------------------------------------------
D RKNN: [19:30:02.411] ID   OpType        DataType Target InputShape       OutputShape  Cycles  RW(KB)  FullName
D RKNN: [19:30:02.411] ----------------------------------------------------------------------------------------
D RKNN: [19:30:02.411] 0    InputOperator INT8     CPU    \\                (8,48,7,7)   0/0/0   0   InputOperator:x
D RKNN: [19:30:02.411] 1    ConvRelu      INT8     NPU    (8,48,7,7),...   (8,32,7,7)   1/2/2   587 Conv:/head/0/Conv
D RKNN: [19:30:02.411] 2    Reshape       INT8     CPU    (8,4,1,1),(2)    (8,4)        0/0/0   3  Reshape:/cls/Gemm_2rs
D RKNN: [19:30:02.411] 3    OutputOperator INT8    CPU    (8,4)            \\            0/0/0   0   OutputOperator:y
D RKNN: [19:30:02.411] ----------------------------------------------------------------------------------------
D RKNN: [19:30:02.412] <<<<<<<< end: rknn::RKNNModelRegCmdbuildPass
"""


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toolkit that is made up, in this Python."""
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setattr(tool_worker, "WORKERS", os.pathsep.join([str(tool_worker.WORKERS), str(FAKE)]))
    for module in (rknn, _rknn_simulator):
        monkeypatch.setattr(module, "require", lambda name, place: Path(sys.executable))
    yield
    _rknn_simulator.running.shutdown()


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    folder = tmp_path / "parts of a detector"
    folder.mkdir()
    model = Model(parse(NETWORK))
    model.save(folder / "network.onnx")
    part = Part("network", "npu", True, model)
    source = {"kind": "onnx", "name": "network.onnx", "weights": None}
    manifest = describe_parts([part], "network", source, Canvas(HEIGHT, WIDTH), ["input"], ["y"], None)
    (folder / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path, 2)[0]


def test_the_files_are_as_the_toolkit_wants_them(tmp_path: Path) -> None:
    made = job(GRAPH, tmp_path)
    Rknn(target_platform="rv1106", quantized_algorithm="mmse", op_target={"y": "npu"}).write(made)
    assert json.loads((tmp_path / "build.json").read_text()) == {
        "model": "network.onnx",
        "config": {
            "target_platform": "rv1106",
            "quantized_algorithm": "mmse",
            "quantized_method": "channel",
            "optimization_level": 3,
            "remove_reshape": True,
            "op_target": {"y": "npu"},
        },
        "quantize": True,
        "dataset": "dataset.txt",
        "rknn": "network.rknn",
    }
    ast.parse((tmp_path / "build.py").read_text())
    for number in range(2):
        Rknn().write_sample(made, sample(number, x=np.full((1, 3, 4, 6), number, np.float32)))
    assert (tmp_path / "dataset.txt").read_text() == "input/0_0.npy\ninput/1_0.npy\n"
    assert np.load(tmp_path / "input" / "1_0.npy").max() == 1


def test_an_open_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the shape of 'x' is .* freeze-batch"):
        Rknn().write(job(GRAPH.replace("1, 3", "N, 3"), tmp_path))


def test_the_table_of_layers() -> None:
    assert layers_in(LOG) == [Layer("ConvRelu", "/head/0/Conv", True), Layer("Reshape", "/cls/Gemm_2rs", False)]
    assert layers_in("I rknn building done.\n") is None
    assert layers_in(LOG.replace("Target", "Where")) is None
    assert layers_in("\n".join(LOG.splitlines()[:8])) is None, "it was cut off"


@pytest.mark.usefixtures("toolkit")
def test_a_target_has_its_compiler_and_says_why_a_layer_is_on_the_cpu(
    cli: Cli, parts: Path, images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAKE_RKNN", "Relu")
    outcome = cli("compile", parts, "--target", "rk3576", "--images", images)
    assert outcome.code == 0, outcome.err
    assert "network: 1 of 2 layers on the NPU" in outcome.out
    assert "on the CPU: Relu 'second'\n" in outcome.out
    place = parts / "compiled" / "rknn"
    said = json.loads((place / "compiled.json").read_text())
    assert said["options"]["target_platform"] == "rk3576"
    assert said["placed"] == {"network": {"layers": 2, "on_cpu": [{"op": "Relu", "name": "second", "on_npu": False}]}}
    names = {path.relative_to(place / "network").as_posix() for path in (place / "network").rglob("*.*")}
    written = {"network.onnx", "network.rknn", "build.json", "build.py", "dataset.txt", "rknn.log"}
    assert names == written | {"input/0_0.npy", "input/1_0.npy"}, "and no check0_base_optimize.onnx"

    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: rk3588\noperators: {Relu: {taken: false, else: cpu, note: it has none}}\n")
    outcome = cli("compile", parts, "--target", mine, "--images", images, "--option", "precision=float16")
    assert "on the CPU: Relu 'second': it has none" in outcome.out
    assert cli("compile", parts, "--target", "rk3588", "--option", "target_platform=rk2118", "--no-run").code == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("refuse", "ends with 1: KeyError: unknown op Foo"),
        ("code", "ends with 1: build returns 1"),
        ("crash", ": E assertion failed: layer.h"),
        ("hang", "takes longer than 3 s"),
    ],
)
@pytest.mark.usefixtures("toolkit")
def test_a_toolkit_that_fails_changes_nothing(
    cli: Cli,
    parts: Path,
    images: Path,
    snapshot: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
    said: str,
) -> None:
    monkeypatch.setenv("FAKE_RKNN", wrong)
    monkeypatch.setattr(compiler, "_SECONDS", 3 if wrong == "hang" else 60)
    before = snapshot(parts)
    outcome = cli("compile", parts, "--with", "rknn", "--images", images)
    assert outcome.code == 2
    assert said in outcome.last_line
    assert snapshot(parts) == before


@pytest.mark.usefixtures("toolkit")
def test_int8_without_images_is_refused(cli: Cli, parts: Path) -> None:
    outcome = cli("compile", parts, "--with", "rknn")
    assert outcome.code == 2
    assert "int8 takes its ranges from images; give --images" in outcome.last_line


def test_without_the_toolchain_the_command_that_installs_it_is_named(
    cli: Cli, parts: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHSURGERY_CACHE", str(tmp_path / "cache"))
    outcome = cli("compile", parts, "--target", "rk3588", "--images", images)
    assert outcome.code == 3
    assert outcome.last_line.endswith("which is not installed: python -m graphsurgery toolchain install rknn")
    with pytest.raises(MissingTool, match=r"device npu=rknn needs .* toolchain install rknn"):
        Detector.load(parts, parse_devices(["npu=rknn"]))
    assert cli("compile", parts, "--target", "rk3588", "--images", images, "--no-run").code == 0
    outcome = cli("compile", parts, "--target", "coreml")
    assert "target 'coreml' names no compiler; give one with --with: ascend" in outcome.last_line
    assert cli("compile", parts).code == cli("compile", parts, "--with", "rknn", "--target", "rk3588").code == 2


@pytest.mark.usefixtures("toolkit")
def test_the_simulator_plays_what_was_compiled(
    cli: Cli, parts: Path, images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    devices = parse_devices(["npu=rknn,platform=rk3588"])
    with pytest.raises(InputError, match=r"plays what was compiled, and nothing was; .* compile .* --with rknn"):
        Detector.load(parts, devices)
    assert cli("compile", parts, "--with", "rknn", "--images", images, "--no-run").code == 0
    with pytest.raises(InputError, match="holds files that were not compiled yet"):
        Detector.load(parts, devices)
    assert cli("compile", parts, "--with", "rknn", "--images", images).code == 0
    with pytest.raises(InputError, match="was compiled with target_platform=rk3588, and rk3576 is asked for"):
        Detector.load(parts, parse_devices(["npu=rknn,platform=rk3576"]))

    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    expected = Detector.load(parts).raw(image)["y"]
    detector = Detector.load(parts, devices)
    assert np.array_equal(detector.raw(image)["y"], expected)

    dies = tmp_path / "dies"
    monkeypatch.setenv("FAKE_RKNN_DIES", str(dies))
    _rknn_simulator.running.shutdown()
    dies.write_text("")
    with pytest.raises(InputError, match=r"^part 'network': RKNN's simulator crashed"):
        detector.raw(image)
    assert np.array_equal(detector.raw(image)["y"], expected), "another process builds it once more"

    (parts / "compiled" / "rknn" / "network" / "dataset.txt").write_text("../../../secret.npy\n")
    with pytest.raises(InputError, match=r"names '../../../secret.npy', and no file of input/"):
        Detector.load(parts, devices)


@pytest.mark.usefixtures("toolkit")
def test_layers_on_the_cpu_are_an_error_unless_they_are_allowed(
    cli: Cli, parts: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_RKNN", "Relu")
    assert cli("compile", parts, "--with", "rknn", "--images", images).code == 0
    with pytest.raises(InputError, match="RKNN leaves 1 of 2 layers to the CPU, Relu 'second' first; see what helps"):
        Detector.load(parts, parse_devices(["npu=rknn"]))
    Detector.load(parts, parse_devices(["npu=rknn"]), allow_fallback=True)


@pytest.mark.usefixtures("toolkit")
def test_many_models_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Model(parse(GRAPH)).save(tmp_path / "one.onnx")
    np.save(tmp_path / "x.npy", np.full((1, 3, 4, 6), -2, np.float32))
    config = {"target_platform": "rk3588"}
    whole = {"folder": str(tmp_path), "model": "one.onnx", "config": config, "quantize": False}
    played = {"inputs": [str(tmp_path / "x.npy")], "outputs": str(tmp_path), "log": str(tmp_path / "log")}
    with _rknn_simulator.running.use() as worker:
        jobs = [whole | played, whole | {"model": "two.onnx"}, whole | {"quantize": True, "samples": [["x.npy"]]}]
        results = worker.ask({"do": "many", "jobs": jobs}, 60)["results"]
    assert results[0] == {"outputs": ["0.npy"]}
    assert np.load(tmp_path / "0.npy").max() == 0
    assert layers_in((tmp_path / "log").read_text()) == [Layer("Relu", "Relu", True)]
    assert "two.onnx" in results[1]["error"]
    assert "x.npy" in results[2]["error"], "samples are named by whole paths"


def is_installed() -> bool:
    return look(find_toolchain("rknn")).state == "installed"


@pytest.mark.skipif(not is_installed(), reason="the toolchain rknn is not installed")
def test_the_real_toolkit_and_its_simulator(cli: Cli, parts: Path, images: Path) -> None:
    outcome = cli("compile", parts, "--target", "rk3588", "--images", images)
    assert outcome.code == 0, outcome.err
    assert "network: 1 of 1 layers on the NPU" in outcome.out, "it fuses the Relu into the Conv"
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    expected = Detector.load(parts).raw(image)["y"]
    found = Detector.load(parts, parse_devices(["npu=rknn,platform=rk3588"])).raw(image)["y"]
    _rknn_simulator.running.shutdown()
    noise = float(np.square(found - expected).sum() / np.square(expected).sum())
    assert 0 < noise < 10**-1.5, "int8, and so neither the same nor far off"
