"""A plan of cases, what comes of measuring it, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli
from targets.nodes import registry

from graphsurgery.probing import backends
from graphsurgery.probing.probe import joined, measure, plan
from graphsurgery.targets.load import Named, load_target
from graphsurgery.targets.measured import read_measurements
from probing.stand import TARGET, Stand


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Named:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(json.dumps(TARGET), encoding="utf-8")
    return load_target("mine.yaml", registry())


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "backend_of", lambda named: Stand())


def test_all_cases_are_measured_and_what_is_none_is_told(named: Named) -> None:
    planned = plan(named.target, ["any"], ["Conv", "Sigmoid", "Loop"], forms=False)
    told: list[tuple[int, int]] = []
    found = measure(named, planned, Stand(), lambda done, total: told.append((done, total)))
    assert [(each.op, each.side) for each in found.contradictions] == [("Sigmoid", "inside")]
    assert told[-1] == (len(planned.cases), len(planned.cases))
    (left,) = found.not_measured
    assert (left["op"], left["reason"]) == ("Loop", "a node with bodies is more than one node")


def test_operators_that_the_file_does_not_name_are_measured_too(named: Named) -> None:
    said = {
        case.line.op: case.verdict.outcome for case in plan(named.target, ["any"], ["Erf", "Conv"], forms=False).cases
    }
    assert said["Erf"] == "cpu"


def test_a_sample_takes_of_each_operator_of_detectors_in_turn() -> None:
    planned = plan(load_target("qnn-htp", registry()).target, ["float16"], ["Conv", "Resize", "Slice", "Exp"])
    sample = planned.sample(8)
    assert [case.line.op for case in sample.cases] == ["Conv", "Resize", "Slice", "Exp"] * 2
    assert sample.cases[1].verdict.outcome == "wrong"  # what promises most comes first
    assert [case.key for case in planned.sample(8).cases] == [case.key for case in sample.cases]


def test_what_was_measured_of_other_operators_is_kept_and_of_another_version_is_not(named: Named) -> None:
    one = measure(named, plan(named.target, ["any"], ["Conv"], forms=False), Stand())
    other = measure(named, plan(named.target, ["any"], ["Sigmoid"], forms=False), Stand())
    assert {each.op for each in joined(one, other).cases} == {"Conv", "Sigmoid"}
    newer = measure(named, plan(named.target, ["any"], ["Sigmoid"], forms=False), Stand("2.0"))
    assert {each.op for each in joined(one, newer).cases} == {"Sigmoid"}
    assert joined(one, one) == one


@pytest.mark.usefixtures("stand", "named")
def test_the_command_shows_both_outcomes_and_ends_with_1(cli: Cli) -> None:
    outcome = cli("probe", "--target", "mine.yaml", "--op", "Sigmoid", "--op", "Conv")
    told = " ".join(outcome.out.split())
    assert outcome.code == 1
    assert "Sigmoid any as usual taken cpu (never)" in told
    assert "written to mine.measured.json" in told
    assert {each.op for each in read_measurements(Path("mine.measured.json")).cases} == {"Sigmoid", "Conv"}
    assert all(len(line) <= 80 for line in outcome.out.splitlines())


@pytest.mark.usefixtures("stand", "named")
def test_the_command_ends_with_0_where_all_agree_and_keeps_what_is_in_the_file(cli: Cli) -> None:
    cli("probe", "--target", "mine.yaml", "--op", "Sigmoid", "--out", "m.json")
    outcome = cli("probe", "--target", "mine.yaml", "--op", "Conv", "--out", "m.json", "--json", "-")
    assert outcome.code == 0
    assert {each["op"] for each in json.loads(outcome.out)["cases"]} == {"Conv"}
    assert {each.op for each in read_measurements(Path("m.json")).cases} == {"Sigmoid", "Conv"}


@pytest.mark.usefixtures("stand", "named")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--op", "Covn"], "neither target 'mine' nor the probe knows operator 'Covn'. Nearest: Conv"),
        (["--precision", "int3"], "target 'mine' has no precision 'int3'"),
        (["--out", "no/where.json"], "--out no/where.json: no file can be written there"),
        (["--out", "mine.yaml"], "these are no measurements of probe"),
        (["--json", "no/where.json"], "no file can be written there"),
    ],
)
def test_what_the_user_gives_wrong_is_refused_in_a_line(cli: Cli, arguments: list[str], told: str) -> None:
    before = Path("mine.yaml").read_bytes()
    outcome = cli("probe", "--target", "mine.yaml", *arguments)
    assert outcome.code == 2
    assert told in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err
    assert Path("mine.yaml").read_bytes() == before


@pytest.mark.usefixtures("named")
def test_a_tool_that_is_missing_ends_with_3_and_one_that_nobody_has_with_2(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("probe", "--target", "mine.yaml").code == 2
    monkeypatch.setattr(backends, "backend_of", lambda named: Stand(""))
    outcome = cli("probe", "--target", "mine.yaml")
    assert outcome.code == 3
    assert not Path("mine.measured.json").exists()
