"""run.json: the shape that the report and other tools read, and strictly JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from graphsurgery.gate.equivalence import compare
from graphsurgery.gate.gate import Ruling
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.gate.verdicts import Verdict, merge
from graphsurgery.graph.model import Model
from graphsurgery.parts.part import Part
from graphsurgery.report.run_record import Record, Step, peak_rss_mb
from graphsurgery.rewrite import Skip
from graphsurgery.testing import parse

PART = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N, 4] x, bool c) => (float[N, 4] y) {
        a = Relu (x)
        b = Relu (a)
        y = If (c) <
            then_branch = t () => (float[N, 4] d) { d = Neg (b) },
            else_branch = e () => (float[N, 4] f) { f = Relu (b) }
        >
    }"""


def verdict(reference: Any, candidate: Any) -> Verdict:
    comparison = compare({"boxes": np.asarray(reference)}, {"boxes": np.asarray(candidate)}, Tolerances())
    return merge([("000001", comparison)])


def strict(value: object) -> Any:
    """What another tool reads out of it; JSON knows neither NaN nor Infinity."""
    return json.loads(json.dumps(value, allow_nan=False))


def test_a_pass_is_written_with_all_that_the_report_needs() -> None:
    skips = [Skip("pool_2", "kernel is 2x2"), Skip("pool_3", "strides differ")]
    step = Step("replace-unit-maxpool", "backbone_rpn", "exact", 164, 166, 0.12345, skips)
    step.judge(Ruling(verdict([0.0, 1.0, 2.0], [0.0, 1.0, 2.0001])))
    written = strict(step.to_json())
    worst, comparison = written.pop("worst"), written.pop("comparison")
    assert written == {
        "name": "replace-unit-maxpool",
        "part": "backbone_rpn",
        "effect": "exact",
        "nodes_before": 164,
        "nodes_after": 166,
        "seconds": 0.123,
        "skips": [{"node": "pool_2", "reason": "kernel is 2x2"}, {"node": "pool_3", "reason": "strides differ"}],
        "verdict": "passed",
    }
    assert worst["tensor"] == "boxes"
    assert worst["max_abs"] == pytest.approx(1e-4)
    assert worst["allowed"] == pytest.approx(2e-4)
    assert worst["sample"] == "000001"
    assert comparison["samples"] == [{"id": "000001", "verdict": "passed"}]


def test_a_check_that_no_pass_belongs_to_has_no_effect() -> None:
    written = strict(Step("export", nodes_before=3, nodes_after=3).to_json())
    assert "effect" not in written
    assert (written["part"], written["verdict"], written["worst"], written["comparison"]) == (
        None,
        "unchecked",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ([0.0, 1.0], [0.0, 1.0]),  # SQNR is infinite
        ([0.0, 1.0], [np.nan, np.inf]),
        ([np.nan, np.inf], [np.nan, np.inf]),
        ([0.0, 0.0], [0.0, 1.0]),  # SQNR is minus infinity
        ([-1.7e308, 1.0], [1.7e308, 1.0]),  # the difference is beyond float64
        (np.zeros((0, 4)), np.zeros((0, 4))),
        (np.zeros(3), np.zeros(4)),
        (np.array([2**63 - 1, -(2**63)]), np.array([-(2**63), 2**63 - 1])),
        (np.array([1, 2], np.float32), np.array([1, 2.5], np.float32)),
    ],
)
def test_no_comparison_writes_what_json_does_not_know(reference: Any, candidate: Any) -> None:
    step = Step("simplify", effect="exact")
    step.judge(Ruling(verdict(reference, candidate)))
    assert strict(step.to_json())["worst"]["tensor"] == "boxes"


def test_parts_are_described_by_shapes_and_operators() -> None:
    record = Record({"name": "shapes"})
    record.describe([Part("postprocess", "cpu", False, Model(parse(PART)))])
    assert strict(record.to_json())["parts"] == [
        {
            "name": "postprocess",
            "device": "cpu",
            "accelerator": False,
            "file": "postprocess.onnx",
            "nodes": 5,
            "inputs": {"x": ["N", 4], "c": []},
            "outputs": {"y": ["N", 4]},
            "ops": {"Relu": 3, "If": 1, "Neg": 1},
        }
    ]
    assert sum(record.parts[0]["ops"].values()) == record.parts[0]["nodes"]


def test_a_run_is_written_as_far_as_it_came() -> None:
    record = Record({"name": "shapes"}, {"kind": "demo", "size": [256, 320]})
    record.spent("surgery", 0.5)
    record.spent("surgery", 0.25012345)
    record.spent("total", 2)
    record.passes.append(Step("simplify", effect="exact"))
    record.checks.append(Step("export"))
    written = strict(record.to_json())
    assert list(written) == [
        "recipe",
        "source",
        "passes",
        "checks",
        "parts",
        "variants",
        "evaluation",
        "latency",
        "capture",
        "error",
        "seconds",
        "peak_rss_mb",
        "environment",
    ]
    assert written["recipe"] == {"name": "shapes"}
    assert written["source"] == {"kind": "demo", "size": [256, 320]}
    assert [step["name"] for step in written["passes"]] == ["simplify"]
    assert [step["name"] for step in written["checks"]] == ["export"]
    assert (written["parts"], written["evaluation"]) == ([], None)
    assert written["seconds"] == {"surgery": 0.75, "total": 2}
    assert written["peak_rss_mb"] > 1


def test_peak_memory_is_in_megabytes_and_never_falls() -> None:
    before = peak_rss_mb()
    block = np.ones(64 * 2**20 // 8)
    after = peak_rss_mb()
    assert block.nbytes == 64 * 2**20
    assert before <= after < 100_000
    assert after >= 64
