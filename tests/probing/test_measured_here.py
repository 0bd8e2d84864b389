"""A sample of the measured cases once more, on Qualcomm's emulator: the files are right, and known faults are found."""

from __future__ import annotations

import importlib.util
import platform
import sys

import pytest
from targets.nodes import registry

from graphsurgery.probing.backends import backend_of
from graphsurgery.probing.probe import measure, plan
from graphsurgery.targets.load import Named, load_target
from graphsurgery.targets.measured import Measured

SAMPLE = 40
_HERE = (sys.platform, platform.machine().lower()) == ("linux", "x86_64")
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("onnxruntime_qnn") is None, reason="onnxruntime-qnn is not installed"),
    pytest.mark.skipif(not _HERE, reason="onnxruntime-qnn has an emulator for x86-64 Linux only"),
]
DETECTORS = ("Conv", "MaxPool", "Resize", "NonMaxSuppression", "Slice", "Concat", "Add", "Softmax", "TopK", "RoiAlign")


@pytest.fixture(scope="module")
def named() -> Named:
    return load_target("qnn-htp", registry())


@pytest.fixture(scope="module")
def found(named: Named) -> list[Measured]:
    """A sample of the cases in float16, measured now."""
    planned = plan(named.target, ["float16"], DETECTORS, forms=False)
    return list(measure(named, planned.sample(SAMPLE), backend_of(named)).cases)


def key(case: Measured) -> tuple[object, ...]:
    return case.op, case.line, case.precision, case.side, case.limit, str(case.value)


def test_a_sample_is_what_was_measured(named: Named, found: list[Measured]) -> None:
    assert len(found) == SAMPLE
    kept = named.measurements
    assert kept is not None
    if kept.tool != backend_of(named).tool():
        pytest.skip(f"measured with {kept.tool}, here is {backend_of(named).tool()}: scripts/probe-all")
    before = {key(case): case for case in kept.cases}
    assert [(key(c), c.found.outcome) for c in found] == [(key(c), before[key(c)].found.outcome) for c in found]
    assert [(key(c), c.said) for c in found] == [(key(c), before[key(c)].said) for c in found]


def test_it_finds_a_resize_that_is_taken_and_wrong(found: list[Measured]) -> None:
    assert any(case.op == "Resize" and case.found.outcome == "wrong" for case in found)


def test_it_finds_that_nms_repeats_its_last_index(found: list[Measured]) -> None:
    told = [str(case.found.remark) for case in found if case.op == "NonMaxSuppression"]
    assert any("the last one is repeated" in each for each in told)
