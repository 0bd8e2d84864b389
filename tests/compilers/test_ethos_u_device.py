"""The device ethos-u: what it plays, and what it says where that isn't there. The kernels are a stand-in here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphsurgery.compilers import _ethos_u_simulator as simulator
from graphsurgery.compilers._ethos_u_simulator import EthosUSimulator
from graphsurgery.compiling.compiled import Compiled
from graphsurgery.devices.choices import parse_devices
from graphsurgery.errors import InputError, MissingTool
from graphsurgery.graph.model import Model
from graphsurgery.parts.folder import sha256_of
from graphsurgery.processes.worker import Running
from graphsurgery.testing import parse
from graphsurgery.toolchains import ToolWorker

NET = '<ir_version: 8, opset_import: ["": 17]> g (float[1, 2] x) => (float[1, 2] y) { y = Add (x, x) }'
# Doubles what it is given, but for a 13, at which it dies
STAND_IN = """
import os
from pathlib import Path
import numpy as np
from serving import Refused, serve

def open_(request):
    if not Path(request["folder"], "tensors.json").is_file():
        raise Refused("what was compiled can't be read; compile again")
    return {}

def infer(request):
    values = np.load(request["inputs"][0])
    if values[0, 0] == 13:
        os._exit(1)
    np.save(Path(request["outputs"]) / "0.npy", values * 2)
    return {"outputs": ["0.npy"]}

serve(lambda: None, {"open": open_, "infer": infer})
"""


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    running = Running(lambda: ToolWorker(Path(sys.executable), tmp_path / "stand_in.py", "TensorFlow's kernels"))
    monkeypatch.setattr(simulator, "running", running)
    Model(parse(NET)).save(tmp_path / "net.onnx")
    compiled(tmp_path / "net.onnx")
    yield tmp_path / "net.onnx"  # type: ignore[misc]
    running.shutdown()


def compiled(part: Path, **changed: Any) -> None:
    place = part.parent / "compiled" / "ethos-u"
    (place / "net").mkdir(parents=True, exist_ok=True)
    (place / "net" / "tensors.json").write_text("{}")
    said = {
        "compiler": "ethos-u",
        "options": {"accelerator": "ethos-u55-256"},
        "parts": {"net": sha256_of(part)},
        "ran": True,
        "samples": [],
        **changed,
    }
    Compiled.model_validate(said).write(place)


def opened(part: Path, fallback: bool = False, **options: str) -> Any:
    return EthosUSimulator.open(part, options, "part 'net'", allow_fallback=fallback)


def test_it_is_a_device_by_the_name_of_its_compiler() -> None:
    choice = parse_devices(["npu=ethos-u,accelerator=ethos-u55-256"])["npu"]
    assert (choice.provider, choice.options) == ("ethos-u", {"accelerator": "ethos-u55-256"})


def test_a_part_is_played_and_a_crash_is_one_error_after_which_it_plays_on(part: Path) -> None:
    session = opened(part, accelerator="ethos-u55-256")
    assert (session.inputs, session.outputs) == (["x"], ["y"])
    x = np.array([[1, 2]], np.float32)
    np.testing.assert_array_equal(session.run({"x": x})["y"], x * 2)
    with pytest.raises(InputError, match="part 'net': TensorFlow's kernels crashed"):
        session.run({"x": x * 13})
    np.testing.assert_array_equal(session.run({"x": x}, ["y"])["y"], x * 2)
    with pytest.raises(InputError, match="input 'x' is not given"):
        session.run({})


def test_what_was_not_compiled_or_for_something_else_is_told(part: Path) -> None:
    with pytest.raises(InputError, match="accelerator=ethos-u55-256, and ethos-u65-512 is asked for"):
        opened(part, accelerator="ethos-u65-512")
    left = {"net": {"accelerated": 1, "left": [{"operator": "PADV2", "name": "p"}]}}
    compiled(part, reports=left)
    with pytest.raises(InputError, match="'ethos-u' leaves 1 of 2 operators to the CPU, PADV2 'p' first"):
        opened(part)
    assert opened(part, fallback=True)
    compiled(part, parts={"net": "0" * 64})
    with pytest.raises(InputError, match="was compiled of another file"):
        opened(part)
    (part.parent / "compiled" / "ethos-u" / "compiled.json").unlink()
    with pytest.raises(InputError, match="compile the parts"):
        opened(part)


def test_files_that_are_gone_are_told(part: Path) -> None:
    (part.parent / "compiled" / "ethos-u" / "net" / "tensors.json").unlink()
    with pytest.raises(InputError, match=r"part 'net': TensorFlow's kernels: .*compile again"):
        opened(part)


def test_a_missing_toolchain_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHSURGERY_CACHE", str(tmp_path))
    with pytest.raises(MissingTool, match="python -m graphsurgery toolchain install vela"):
        EthosUSimulator.require("device npu=ethos-u")
