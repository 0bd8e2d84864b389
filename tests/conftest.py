"""What the tests of the whole job share: the command line in this process, and detectors taken apart once."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer.main

from graphsurgery import plugins
from graphsurgery.cli import main
from graphsurgery.files.locks import Lock
from graphsurgery.toolchains import find_toolchain
from graphsurgery.toolchains.environment import look

# As many processes run tests as there are cores: with a thread for each core, each would wait for the others' threads,
# a third of all processor time. OMP's are torch's and NumPy's. What was set by hand stays.
os.environ.setdefault("GRAPHSURGERY_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is installed stays while tests run; to look through it takes 10 ms, and each run of a recipe asks several times
plugins.entry_points = functools.cache(plugins.entry_points)

PARTS = ("backbone_rpn", "box_proposal", "box_head", "mask_proposal", "mask_head", "postprocess")

# The recipe of a detector that lies in an ONNX file, with nothing to normalise and masks that are not pasted
DETECTOR = """\
source: {onnx: detector.onnx}
partition:
  at: RoiAlign
  parts: {backbone_rpn: npu, box_proposal: cpu, box_head: npu, mask_proposal: cpu, mask_head: npu, postprocess: cpu}
part_passes:
  backbone_rpn: [replace-unit-maxpool]
  box_head: [{freeze-batch: {size: 1000}}]
  mask_head: [{freeze-batch: {size: 100}}]
check:
  tolerance: {boxes: 1.0e-3, labels: 0, scores: 1.0e-4, masks: 1.0e-3}
"""


# Fixtures that take a whole detector apart, and the tests that scripts/check --quick has only for passes asked for
WHOLE = {"shapes", "uncut", "detector"}
FOR_EVERY_PASS = "test_backend_suite"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --quick, for scripts/check."""
    parser.addoption(
        "--quick",
        action="store_true",
        help="leave out whole detectors, and in ONNX's backend suite all passes but those whose tests are named",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what --quick leaves out, and skip what takes a toolchain that isn't installed.

    Files with whole detectors come first: begun last, one would keep a worker busy while the others have nothing to do.
    """
    long = {item.path for item in items if item.get_closest_marker("whole") is not None}
    items.sort(key=lambda item: item.path not in long)
    for item in items:
        for mark in item.iter_markers("toolchain"):
            if not is_installed(mark.args[0]):
                item.add_marker(pytest.mark.skip(reason=f"toolchain install {mark.args[0]}"))
    if not config.getoption("--quick"):
        return
    asked = {Path(argument).stem for argument in config.args}

    def stays(item: pytest.Item) -> bool:
        assert isinstance(item, pytest.Function)
        if item.module.__name__ == FOR_EVERY_PASS:
            name = item.callspec.params.get("name", "") if hasattr(item, "callspec") else ""
            return f"test_{name.replace('-', '_')}" in asked
        return WHOLE.isdisjoint(item.fixturenames) and item.get_closest_marker("whole") is None

    config.hook.pytest_deselected(items=[item for item in items if not stays(item)])
    items[:] = filter(stays, items)


@functools.cache
def is_installed(toolchain: str) -> bool:
    """Whether a vendor's tools are here that `toolchain install` brings."""
    return look(find_toolchain(toolchain)).state == "installed"


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """The last line on standard error, where the error stands."""
        return self.err.rstrip("\n").rpartition("\n")[2]


@dataclass(frozen=True)
class Applied:
    """A detector that `apply` took apart: the folder of parts and the captured tensors."""

    folder: Path
    model_io: Path
    outcome: Outcome

    @property
    def run(self) -> dict[str, Any]:
        """The content of run.json."""
        content: dict[str, Any] = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        return content


Cli = Callable[..., Outcome]
Snapshot = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run the command line in this process, which saves the seconds that importing torch takes."""
    built_once = functools.cache(typer.main.get_command)  # from all commands' signatures, a third of a small `apply`

    def call(*arguments: object) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(typer.main, "get_command", built_once),
            mock.patch.object(sys, "argv", ["graphsurgery", *map(str, arguments)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as stop,
        ):
            main()
        code = stop.value.code
        assert isinstance(code, int)
        return Outcome(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def exact_int8() -> None:
    """Skip where ONNX Runtime's kernels for uint8 times int8 saturate, as on x86-64 without VNNI: integers are off."""
    import numpy as np
    import onnx

    from graphsurgery.devices import session

    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (uint8[1, 64] x) => (int32[1, 16] y) { w = Constant <value = int8[1] {127}> ()
            s = Constant <value = int64[2] {64, 16}> ()  m = Expand (w, s)  y = MatMulInteger (x, m) }""")
    found = session.run(model, {"x": np.full((1, 64), 255, np.uint8)})["y"]
    if not (found == 64 * 255 * 127).all():
        pytest.skip("uint8 times int8 saturates on this processor")


@pytest.fixture
def cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find no provider but the CPU's, whatever the ONNX Runtime that is installed has."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])


@pytest.fixture(scope="session")
def snapshot() -> Snapshot:
    """Tell what is in a folder: every path below it, with a hash of each file."""

    def take(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            for path in sorted(folder.rglob("*"))
        }

    return take


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Outcome]) -> Applied:
    """Return what the command of `make` leaves in a folder: the first worker runs it, each takes a copy of its own."""
    own = factory.mktemp(name)
    place = factory.getbasetemp()
    place = place.parent if os.environ.get("PYTEST_XDIST_WORKER") else place
    folder, told = place / f"made_{name}", place / f"made_{name}.json"
    while (lock := Lock.take(place / f"made_{name}.lock")) is None:
        time.sleep(0.2)
    try:
        if not told.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that was killed
            folder.mkdir()
            told.write_text(json.dumps(asdict(make(folder))), encoding="utf-8")
    finally:
        lock.release()
    said = json.loads(told.read_text(encoding="utf-8"))
    outcome = Outcome(said["code"], *(said[stream].replace(str(folder), str(own)) for stream in ("out", "err")))
    assert outcome.code == 0, outcome.err
    shutil.copytree(folder, own, dirs_exist_ok=True)
    return Applied(own / "parts", own / "model_io", outcome)


@pytest.fixture(scope="session")
def shapes(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Applied:
    """The embedded detector, taken from torch through its recipe; one of its three samples shows nothing."""
    pytest.importorskip("torch")
    without = ("--set", "evaluate=", "--set", "capture.samples=3", "--no-variants")

    def make(root: Path) -> Outcome:
        return cli("apply", "shapes", *without, "--out", root / "parts", "--model-io", root / "model_io")

    return made_once(tmp_path_factory, "shapes", make)


@pytest.fixture(scope="session")
def uncut(cli: Cli, shapes: Applied, tmp_path_factory: pytest.TempPathFactory) -> Applied:
    """The embedded detector after the passes on the whole graph, in one piece."""
    without = ("--set", "partition=", "--set", "part_passes=", "--set", "evaluate=", "--set", "variants=")
    without = (*without, "--set", "capture.samples=3")

    def make(root: Path) -> Outcome:
        shutil.copytree(shapes.model_io, root / "model_io")
        return cli("apply", "shapes", *without, "--out", root / "parts", "--model-io", root / "model_io")

    return made_once(tmp_path_factory, "uncut", make)


@pytest.fixture(scope="session")
def detector(cli: Cli, uncut: Applied, tmp_path_factory: pytest.TempPathFactory) -> Applied:
    """A recipe of an ONNX file, `folder.parent / "detector.yaml"`, and what it gives; it takes seconds and no torch."""

    def make(root: Path) -> Outcome:
        (root / "detector.onnx").write_bytes((uncut.folder / "shapes.onnx").read_bytes())
        (root / "detector.yaml").write_text(DETECTOR, encoding="utf-8")
        return cli("apply", root / "detector.yaml", "--out", root / "parts", "--model-io", root / "model_io")

    return made_once(tmp_path_factory, "detector", make)
