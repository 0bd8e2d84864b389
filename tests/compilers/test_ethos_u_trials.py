"""Probes through onnx2tf and Vela: what stands in for both here, and both themselves where they are installed."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli
from targets.nodes import registry

from graphsurgery.compilers import _ethos_u_trials as trials
from graphsurgery.compilers._ethos_u_trials import EthosUTrials
from graphsurgery.compilers.ethos_u import EthosU
from graphsurgery.compiling.trials import Played
from graphsurgery.probing.backends import backend_of
from graphsurgery.probing.compiled import CompilerBackend
from graphsurgery.probing.probe import plan
from graphsurgery.targets.load import load_target
from graphsurgery.testing import parse
from graphsurgery.toolchains.tool_worker import WORKERS

# Leaves Sigmoid to the CPU and nothing of Identity, refuses Exp, dies of Neg and hangs at Abs
STAND_IN = """
import os, time
import numpy as np
import onnx
from serving import Refused, serve

def try_(request):
    os.chdir(request["folder"])
    (op,) = [node.op_type for node in onnx.load("model.onnx").graph.node]
    assert request["precision"] in ("int8", "int16x8") and "ethos-u55-256" in request["vela"]
    assert np.load("calibration/0.npy").shape == (1, 1, 2)
    if op == "Exp":
        raise Refused("onnx2tf: no Exp")
    if op == "Neg":
        os._exit(9)
    if op == "Abs":
        time.sleep(60)
    np.save("0.npy", np.load("first/0.npy"))
    left = ["LOGISTIC", "ODD"] if op == "Sigmoid" else []
    if left:
        print("Warning (supported operators) operator: LOGISTIC, ofm: 'y'")
        print("   Reason: too wide")
    return {"operators": [] if op == "Identity" else [op], "left": left, "outputs": ["0.npy"]}

serve(lambda: None, {"try": try_})
"""


@pytest.fixture
def stood_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EthosUTrials]:
    (tmp_path / "vela_trials.py").write_text(STAND_IN)
    monkeypatch.setattr(trials, "WORKERS", tmp_path)
    monkeypatch.setattr(trials, "require", lambda name, place: Path(sys.executable))
    made = EthosUTrials(EthosU())
    yield made
    made.close()


def play(made: EthosUTrials, op: str, precision: str = "int8") -> Played:
    net = f'<ir_version: 8, opset_import: ["": 17]> g (float[1, 2] x) => (float[1, 2] y) {{ [n] y = {op} (x) }}'
    return made.play(parse(net), {"x": np.array([[1, -2]], np.float32)}, precision, "n")


def process_of(made: EthosUTrials) -> int:
    assert made._running.worker is not None
    return made._running.worker.pid


def test_one_process_takes_many_models_and_says_where_they_run(stood_in: EthosUTrials) -> None:
    relu = play(stood_in, "Relu")
    first = process_of(stood_in)
    assert (relu.on_npu, relu.outputs["y"].tolist(), relu.reason) == (True, [[1, 0]], None)
    left = play(stood_in, "Sigmoid", "int16")
    assert (left.on_npu, left.reason) == (False, "LOGISTIC: too wide; ODD")
    nothing = play(stood_in, "Identity")
    assert (nothing.on_npu, nothing.reason) == (None, "onnx2tf leaves no operator of it")
    refused = play(stood_in, "Exp")
    assert (refused.error, refused.crashed) == ("onnx2tf: no Exp", False)
    assert process_of(stood_in) == first


def test_a_crash_is_an_outcome_and_the_next_model_gets_another_process(stood_in: EthosUTrials) -> None:
    dead = play(stood_in, "Neg")
    assert dead.crashed
    assert dead.error == "crashed (exit code 0x9)"
    assert play(stood_in, "Relu").on_npu


def test_a_hang_is_an_outcome_and_the_process_is_ended(stood_in: EthosUTrials, monkeypatch: pytest.MonkeyPatch) -> None:
    play(stood_in, "Relu")
    first = process_of(stood_in)
    monkeypatch.setattr(trials, "_SECONDS", 0.5)
    hung = play(stood_in, "Abs")
    assert hung.crashed
    assert "was stopped after 0.5 s" in str(hung.error)
    assert play(stood_in, "Relu").on_npu
    assert process_of(stood_in) != first


def test_a_model_that_is_fed_nothing_is_not_tried(stood_in: EthosUTrials) -> None:
    played = stood_in.play(parse('<ir_version: 8, opset_import: ["": 17]> g () => () {}'), {}, "int8", "n")
    assert (played.on_npu, played.reason) == (None, "it reads nothing that could be calibrated with")


@pytest.mark.parametrize(("name", "chip"), [("ethos-u55", "ethos-u55-256"), ("ethos-u65", "ethos-u65-512")])
def test_a_target_is_probed_for_its_chip(stood_in: EthosUTrials, name: str, chip: str) -> None:
    backend = backend_of(load_target(name, registry()))
    assert isinstance(backend, CompilerBackend)
    assert backend.tool().beside.endswith(chip)
    assert (backend.precisions, backend.unequal_sizes) == ({"int8", "int16"}, True)


def test_without_the_toolchain_probe_ends_with_3_and_the_command(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHSURGERY_CACHE", str(tmp_path))
    ended = cli("probe", "--target", "ethos-u55", "--op", "Relu", "--out", tmp_path / "found.json")
    assert ended.code == 3
    assert "python -m graphsurgery toolchain install vela" in ended.last_line
    assert not (tmp_path / "found.json").exists()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script of the worker, without its tools; what it sets for these is unset behind the test."""
    for name in ("TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES", "TF_USE_LEGACY_KERAS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.syspath_prepend(str(WORKERS))
    import vela_trials  # type: ignore[import-not-found]

    return vela_trials


def test_the_line_of_an_error_that_says_most_is_told(worker: Any, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("\x1b[33mWARNING:\x1b[0m no\n\x1b[31mERROR:\x1b[0m the axis is odd\nERROR: read this\n")
    assert worker.cause(SystemExit(1), str(log)) == "the axis is odd"
    assert worker.cause(ValueError("one\ntwo"), str(log)) == "ValueError: one"
    assert worker.cause(ValueError("MLIR\nTF Select ops: Erf\n")) == "TensorFlow Lite has no Erf"
    assert worker.cause(KeyError()) == "KeyError: it says nothing"


def test_what_vela_refuses_is_told_and_what_it_leaves_is_read_from_its_file(
    worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(given: list[str]) -> int:
        assert given == ["model.tflite", "--output-dir", "vela", "--optimise", "Size"]
        if not ends:
            raise KeyError("0")
        if ends[0] == 0:
            Path("vela").mkdir()
            Path("vela/model_vela.tflite").touch()
        return ends[0]

    vela = types.ModuleType("ethosu.vela.vela")
    vela.main = main  # type: ignore[attr-defined]
    parent = types.ModuleType("ethosu.vela")
    parent.vela = vela  # type: ignore[attr-defined]
    for name, module in (("ethosu", types.ModuleType("ethosu")), ("ethosu.vela", parent), ("ethosu.vela.vela", vela)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    kinds = [{"operator": "ethos-u", "name": "a"}, {"operator": "ONE_HOT", "name": "b"}]
    monkeypatch.setattr(worker.vela_compile, "operators", lambda path: kinds)
    ends: list[int] = []
    with pytest.raises(worker.Refused, match="Vela: KeyError: '0'"):
        worker.placed(["--optimise", "Size"])
    ends = [1]
    with pytest.raises(worker.Refused, match="Vela ends with 1"):
        worker.placed(["--optimise", "Size"])
    ends = [0]
    assert worker.placed(["--optimise", "Size"]) == ["ONE_HOT"]


@pytest.mark.toolchain("vela")
def test_the_tools_take_leave_and_refuse_nodes() -> None:
    named = load_target("ethos-u55", registry())
    backend = backend_of(named)
    planned = plan(named.target, ["int8"], ["Conv", "Gather", "Erf"], forms=False, unequal=True)
    softmax = plan(named.target, ["int8"], ["Softmax"], unequal=True).cases
    asked = [case for case in planned.cases if case.side == "inside"]
    asked += [case for case in softmax if (case.side, case.limit, case.value) == ("form", "axis", 2)]
    measured = list(backend.measure(asked))
    found = {case.line.name: each for case, each in zip(asked, measured, strict=True)}
    assert {name: each.outcome for name, each in found.items()} == {
        **{"Conv": "taken", "Conv #2": "taken", "Gather": "cpu", "Erf": "refused", "Softmax": "taken"}
    }
    assert found["Gather"].reason == "GATHER: Unsupported opType"
    assert found["Erf"].reason == "onnx2tf: TensorFlow Lite has no Erf"
    for taken in ("Conv", "Softmax"):  # axes that are mixed up would be at 0 dB
        assert float(found[taken].decibels or 0) > 30
    kept = named.measurements
    assert kept is not None
    if kept.tool == backend.tool():  # else scripts/probe-all ethos-u55
        before = {(c.op, c.line, c.precision, c.side, c.limit, c.value): c.found.outcome for c in kept.cases}
        keys = [(c.line.op, c.line.number, c.precision, c.side, c.limit, c.value) for c in asked]
        again = {key: each.outcome for key, each in zip(keys, measured, strict=True) if key in before}
        assert len(again) >= 3
        assert again == {key: before[key] for key in again}
