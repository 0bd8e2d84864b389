"""What was measured of a target, in its file, and beside what the target says of a node."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.report.measured_page import measured_page
from graphsurgery.targets.find import names
from graphsurgery.targets.load import Named, load_target
from graphsurgery.targets.measured import Found, Measured, Measurements, Tool, read_measurements
from graphsurgery.targets.support import NodeVerdict, support
from targets.nodes import SOURCE, model, registry

TOOL = Tool("onnxruntime-qnn", "2.7.0", "chip 60", "Linux x86_64")
TARGET = {
    "title": "A target",
    "sources": {"list": SOURCE},
    "source": "list",
    "others": "cpu",
    "operators": {"Softmax": [{"when": {"along": 1}, "taken": False}, {}], "Relu": {"rank": "..4"}},
}
NODES = "a = Softmax <axis = 1> (x) b = Softmax <axis = 3> (a) y = Relu (b)"
NET = f"g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) {{ {NODES} }}"


def case(op: str, line: int, side: str, limit: str | None, value: object, said: str, outcome: str) -> Measured:
    return Measured(op, line, "any", side, limit, value, said, Found(outcome, 5.0, reason="so it is"))  # type: ignore[arg-type]


def measurements(*cases: Measured) -> Measurements:
    return Measurements(
        "mine", TOOL, "2026-11-29", cases, ({"op": "If", "line": 0, "precision": "any", "reason": "no"},)
    )


@pytest.fixture
def named(tmp_path: Path) -> Named:
    (tmp_path / "mine.yaml").write_text(json.dumps(TARGET), encoding="utf-8")
    return load_target(str(tmp_path / "mine.yaml"), registry())


def held(named: Named, *cases: Measured) -> list[NodeVerdict]:
    assert named.measured is not None
    named.measured.parent.mkdir()
    named.measured.write_text(measurements(*cases).text(), encoding="utf-8")
    return support(Model(model(NET)), named).nodes


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    found = measurements(
        case("Relu", 0, "at", "rank", 4, "taken", "taken"),
        Measured("Relu", 0, "any", "inside", None, None, "taken", Found("taken", math.inf, "a remark")),
        Measured("Relu", 0, "any", "form", "static", False, "cpu", Found("wrong", -math.inf)),
    )
    (tmp_path / "m.json").write_text(found.text(), encoding="utf-8")
    assert read_measurements(tmp_path / "m.json") == found
    assert found.text().count("\n") == 14  # a line for each case


def test_only_another_known_outcome_contradicts() -> None:
    outcomes = [("taken", "taken"), ("taken", "cpu"), ("unknown", "cpu"), ("cpu", "unknown"), ("cpu", "wrong")]
    cases = [case("Relu", 0, "inside", None, None, said, outcome) for said, outcome in outcomes]
    assert [each.contradicts for each in cases] == [False, True, False, False, True]


def test_a_node_beyond_a_limit_has_what_was_measured_beyond_it(named: Named) -> None:
    first, second, _ = held(named, case("Softmax", 0, "inside", None, None, "cpu", "taken"))
    assert str(first.measured) == "taken, 5 dB (so it is), with as usual (onnxruntime-qnn 2.7.0, 2026-11-29)"
    assert second.measured is None  # another line is for it


def test_a_node_with_a_value_has_what_was_measured_of_that_value(named: Named) -> None:
    *_, relu = held(
        named, case("Relu", 0, "at", "rank", 4, "taken", "wrong"), case("Relu", 0, "at", "rank", 3, "taken", "cpu")
    )
    assert relu.measured is not None
    assert relu.measured.case.value == 4
    assert relu.to_json()["measured"].startswith("wrong, 5 dB")


def test_what_agrees_is_not_told(named: Named) -> None:
    assert all(each.measured is None for each in held(named, case("Relu", 0, "inside", None, None, "taken", "taken")))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 2}', '{"format": 1, "target": 3, "cases": [1]}', '{"format": 1, "cases": {}}']
)
def test_another_file_is_refused_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"m\.json: "):
        read_measurements(tmp_path / "m.json")


def test_a_document_that_a_measurement_contradicts_stands_beside_it(named: Named) -> None:
    found = load_target("qnn-htp", registry())
    (sine,) = support(
        Model(model("g (float[1, 2, 3, 4, 5] x) => (float[1, 2, 3, 4, 5] y) { y = Sin (x) }")), found
    ).nodes
    assert (sine.verdict.outcome, sine.verdict.against) == ("cpu", "code of 2.0.0: a builder without limits")


def test_what_the_package_brings_is_of_its_lines_as_they_are() -> None:
    """A line that was changed must be measured again: scripts/probe-all."""
    for name in names():
        found = load_target(name, registry())
        for each in found.measurements.cases if found.measurements is not None else ():
            rules = found.target.rules(each.op) or (found.target.other,)
            assert each.line < len(rules), (name, each.op)
            assert each.precision in found.target.precisions


def test_the_page_is_what_the_files_say() -> None:
    page = Path(__file__).parents[2] / "docs" / "measured.md"
    made = measured_page(load_target(name, registry()) for name in names())
    assert page.read_text(encoding="utf-8") == made, "scripts/probe-all --page writes it"


def test_a_reason_names_files_and_not_where_they_lie() -> None:
    from graphsurgery.targets.measured import Found

    said = r"E: /home/me/tool/run.py:10: C:\tools\a.py and 'tfl.mul' of 2/3"
    assert Found("refused", reason=said).reason == "E: run.py:10: a.py and 'tfl.mul' of 2/3"
