"""What becomes of one-node models in the other process: taken, left, refused, wrong, and what kills it."""

from __future__ import annotations

import pytest
from targets.nodes import registry, target

from graphsurgery.devices.providers import DeviceChoice
from graphsurgery.errors import InputError
from graphsurgery.probing import backend
from graphsurgery.probing.backend import ProviderBackend
from graphsurgery.probing.backends import backend_of
from graphsurgery.probing.probe import plan
from graphsurgery.targets.load import load_target
from graphsurgery.targets.measured import Found


def outcomes(monkeypatch: pytest.MonkeyPatch, *ops: str, seconds: float = 20.0) -> dict[str, Found]:
    monkeypatch.setattr(backend, "_MODULE", "probing.dying_process")
    found = target(operators=dict.fromkeys(ops, "taken"), precisions=["float16"])
    planned = plan(found, ["float16"], ops, forms=False)
    measured = ProviderBackend(DeviceChoice("qnn"), seconds=seconds).measure(planned.cases)
    return {case.line.op: each for case, each in zip(planned.cases, measured, strict=True)}


def test_each_outcome_is_told_apart_and_the_next_model_is_tried_after_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    found = outcomes(monkeypatch, "Exp", "MaxPool", "Sigmoid", "Softmax", "Neg", "Abs")
    assert [each.outcome for each in found.values()] == ["taken", "crash", "cpu", "refused", "wrong", "taken"]
    assert found["Exp"].told == "taken, equal"
    assert "exit code 0x86" in str(found["MaxPool"].reason)
    assert found["Sigmoid"].reason == "no Sigmoid here"
    assert found["Softmax"].reason == "Failed to compose the graph of QNNExecutionProvider"
    assert found["Neg"].decibels == pytest.approx(-6.0, abs=0.1)


def test_a_compiler_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    found = outcomes(monkeypatch, "Relu", "Exp", seconds=5.0)
    assert (found["Relu"].outcome, found["Exp"].outcome) == ("crash", "taken")
    assert "stopped after 5 s" in str(found["Relu"].reason)


def test_a_target_that_nothing_compiles_for_is_refused_with_those_that_something_does() -> None:
    with pytest.raises(
        InputError, match=r"nothing compiles and plays models for target 'tidl' here: .*there are .*qnn-htp"
    ):
        backend_of(load_target("tidl", registry()))
