"""Tools that calibrate and report: what is written for them, and how what they computed is compared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from bars import HEIGHT, WIDTH, write_images
from conftest import Cli

from graphsurgery.compiling import Compiler, Job, Runs
from graphsurgery.compiling.compile import compile_parts
from graphsurgery.compiling.compiled import Compiled
from graphsurgery.compiling.feeds import Played
from graphsurgery.errors import CaptureError
from graphsurgery.graph.model import Model
from graphsurgery.images.canvas import Canvas
from graphsurgery.parts.describe import describe_parts
from graphsurgery.parts.manifest import FILE_NAME
from graphsurgery.parts.part import Part
from graphsurgery.passes.freeze_batch import FreezeBatch
from graphsurgery.rewrite import apply_pass
from graphsurgery.sources import SourceSpec, open_source
from graphsurgery.testing import parse

# Twice its image, by a script that a tool would be. `gain` is what it is off by, `say` what it reports.
TOOL = '''
import sys
from dataclasses import dataclass
from graphsurgery.compiling import Compiler, Runs

SCRIPT = """
import json, pathlib, sys
import numpy as np
gain, say, code = float(sys.argv[1]), sys.argv[2], int(sys.argv[3])
read = np.load("calibration/0.npy")
pathlib.Path("computed").mkdir()
np.save("computed/0.npy", read.repeat(int(sys.argv[4]), -1) * 2 * gain)
report = {"accelerated": 3, "left": [{"operator": "Neg", "name": "n", "why": "it has none"}], "figures": {"cycles": 7}}
if say:
    pathlib.Path("report.json").write_text(say if say != "well" else json.dumps(report))
print("no such device")
sys.exit(code)
"""

@dataclass(frozen=True)
class Doubler(Compiler):
    """`gain` is a factor too much."""
    name = "doubler"
    reports = True
    gain: float = 1.0
    say: str = "well"
    code: int = 0
    wide: int = 1
    most: int = 2

    def runs(self):
        return Runs(self.most, "it must see some")

    def write(self, job):
        job.write_text("double.py", SCRIPT)

    def command(self, job):
        return [sys.executable, "double.py", str(self.gain), self.say, str(self.code), str(self.wide)]
'''
NET = f"""
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, {HEIGHT}, {WIDTH}] input) => (float[1, 3, {HEIGHT}, {WIDTH}] y) {{
        y = Add (input, input)
    }}"""


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    folder.mkdir()
    model = Model(parse(NET))
    model.save(folder / "net.onnx")
    source = open_source(SourceSpec("onnx", "net.onnx", folder=folder)).describe()
    part = Part("net", "npu", True, model)
    manifest = describe_parts([part], "net", dict(source), Canvas(HEIGHT, WIDTH), ["input"], ["y"], None)
    (folder / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return folder


@pytest.fixture
def given(tmp_path: Path) -> tuple[object, ...]:
    (tmp_path / "doubler.py").write_text(TOOL)
    images, _ = write_images(tmp_path, 3)
    return ("--with", "doubler", "--plugin", tmp_path / "doubler.py", "--images", images)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_tool_gets_runs_and_what_it_computes_is_compared(cli: Cli, parts: Path, given: tuple[object, ...]) -> None:
    outcome = cli("compile", parts, *given)
    assert outcome.code == 0, outcome.err
    assert "3 of 4" in outcome.out
    assert "on the CPU: Neg n, it has none" in outcome.out
    place = parts / "compiled" / "doubler"
    said = Compiled.read(place).reports["net"]
    assert (said.accelerated, said.figures, said.sqnr_db) == (3, {"cycles": 7}, {"y": None})
    read = np.load(place / "net" / "calibration" / "0.npy")
    assert read.shape == (2, 1, 3, HEIGHT, WIDTH)
    np.testing.assert_array_equal(np.load(place / "net" / "first" / "0.npy"), read[0] * 2)
    assert not (place / "net" / "computed").exists()
    assert not (place / "net" / "report.json").exists()


def test_a_tool_that_computes_something_else_ends_with_1_and_changes_nothing(
    cli: Cli, parts: Path, given: tuple[object, ...]
) -> None:
    before = files(parts)
    outcome = cli("compile", parts, *given, "--option", "gain=2")
    assert (outcome.code, files(parts)) == (1, before)
    assert outcome.last_line == (
        "error: compiler 'doubler': part 'net': what it computes keeps less than 10 dB of ONNX Runtime's: 'y' 0.0 dB; "
        "nothing is written"
    )
    outcome = cli("compile", parts, *given, "--option", "gain=1.01", "--json", "-")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["reports"]["net"]["sqnr_db"]["y"] == pytest.approx(40, abs=0.1)
    assert cli("compile", parts, *given, "--option", "gain=1.01", "--floor", "50").code == 1


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("say=''",), 2, "its tool wrote no report.json (No such file"),
        (("say='{}'",), 2, "report.json is not what its script writes: accelerated: Field required"),
        (("say='['",), 2, "report.json is not what its script writes: "),
        (("wide=2",), 2, "the tool computed another shape"),
        (("code=5",), 2, "ends with 5: no such device"),
        (("code=3",), 3, "part 'net': no such device"),
        (("most=0",), 0, ""),
    ],
)
def test_a_tool_at_fault_is_one_line(
    cli: Cli, parts: Path, given: tuple[object, ...], options: tuple[str, ...], code: int, message: str
) -> None:
    if not code:
        given = (*given[:-2], "--inputs", parts)
        message, code = "no capture", 2
    before = files(parts)
    outcome = cli("compile", parts, *given, *(part for option in options for part in ("--option", option)))
    assert (outcome.code, files(parts)) == (code, before)
    assert message in outcome.last_line


def test_without_samples_it_says_what_to_give(cli: Cli, parts: Path, given: tuple[object, ...]) -> None:
    outcome = cli("compile", parts, *given[:-2])
    assert outcome.code == 2
    assert outcome.last_line.endswith("it must see some; give --inputs, a model_io folder, or --images")


@dataclass(frozen=True)
class Writer(Compiler):
    name = "writer"

    def runs(self) -> Runs:
        return Runs(5)

    def write(self, job: Job) -> None:
        pass


def test_rows_come_in_slices_of_the_batch_spread_over_all(parts: Path, tmp_path: Path) -> None:
    net = NET.replace("float[1, ", "float[N, ")
    frozen = apply_pass(FreezeBatch(size=1), Model(parse(net))).model
    part = Part("net", "npu", True, frozen)
    source = open_source(SourceSpec("onnx", "net.onnx", folder=parts)).describe()
    frozen.save(parts / "net.onnx")
    manifest = describe_parts([part], "net", dict(source), Canvas(HEIGHT, WIDTH), ["input"], ["y"], None)
    (parts / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    rows = np.arange(20, dtype=np.float32).reshape(20, 1, 1, 1) * np.ones((1, 3, HEIGHT, WIDTH), np.float32)
    samples = [Played("1", {"input": rows[:12]}), Played("2", {"input": rows[12:]})]
    place, _ = compile_parts(parts, Writer(), captured=samples, run=False)
    assert np.load(place / "net" / "calibration" / "0.npy")[:, 0, 0, 0, 0].tolist() == [0, 4, 8, 12, 16]
    with pytest.raises(CaptureError, match="part 'net': sample 1: 'input', an input of the model, was not captured"):
        compile_parts(parts, Writer(), captured=[Played("1", {})], run=False)


def test_what_nobody_captured_is_computed_by_the_parts_before(parts: Path) -> None:
    """A cut may go through a tensor that the original model has no name for."""
    nets = {
        "first": NET.replace(" y)", " inner)").replace("y = Add", "inner = Add"),
        "twice": NET.replace(" input) =>", " inner) =>").replace("(input, input)", "(inner, inner)"),
    }
    made = [Part(name, "npu", True, Model(parse(net))) for name, net in nets.items()]
    source = open_source(SourceSpec("onnx", "net.onnx", folder=parts)).describe()
    for part in made:
        part.model.save(parts / f"{part.name}.onnx")
    manifest = describe_parts(made, "net", dict(source), Canvas(HEIGHT, WIDTH), ["input"], ["y"], None)
    (parts / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    images = [np.full((1, 3, HEIGHT, WIDTH), value, np.float32) for value in (1, 2)]
    samples = [Played(str(at), {"input": image}) for at, image in enumerate(images)]
    place, _ = compile_parts(parts, Writer(), parts=["twice"], captured=samples, run=False)
    assert np.load(place / "twice" / "calibration" / "0.npy")[:, 0, 0, 0, 0].tolist() == [2, 4]
    own = [Played("0", {"inner": images[0]})]  # what was captured counts
    place, _ = compile_parts(parts, Writer(), parts=["twice"], captured=own, run=False)
    assert np.load(place / "twice" / "calibration" / "0.npy")[:, 0, 0, 0, 0].tolist() == [1]
    with pytest.raises(CaptureError, match="part 'twice': sample 0: 'inner', an input of the model, was not captured"):
        compile_parts(parts, Writer(), captured=[Played("0", {})], parts=["twice"], run=False)


def test_samples_for_a_tool_that_takes_none_are_refused(cli: Cli, parts: Path, given: tuple[object, ...]) -> None:
    outcome = cli("compile", parts, "--with", "tensorrt", *given[-2:])
    assert outcome.code == 2
    assert outcome.last_line.endswith("compiler 'tensorrt' takes no samples; leave --images out")
