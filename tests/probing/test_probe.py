"""A plan of cases, what comes of measuring it, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli, Outcome
from targets.nodes import registry

from graphsurgery.cli import probe as command
from graphsurgery.probing import backends
from graphsurgery.probing.kept import Kept
from graphsurgery.probing.probe import joined, measure, plan
from graphsurgery.targets.load import Named, load_target
from graphsurgery.targets.measured import Measurements, read_measurements
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


def interrupted(
    monkeypatch: pytest.MonkeyPatch, cli: Cli, most: int | None, version: str = "1.0"
) -> tuple[Outcome, Stand]:
    """Run the command with a tool that is interrupted after `most` cases, all of them where None."""
    stand = Stand(version, most)
    monkeypatch.setattr(backends, "backend_of", lambda named: stand)
    return cli("probe", "--target", "mine.yaml", "--op", "Conv", "--op", "Sigmoid", "--no-forms"), stand


@pytest.mark.usefixtures("named")
def test_what_is_measured_is_kept_and_the_same_command_goes_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, first = interrupted(monkeypatch, cli, 2)
    assert outcome.code == 130
    assert "what is measured is in mine.measured.part.json; the same command goes on there" in outcome.err
    assert not Path("mine.measured.json").exists()
    assert len(read_measurements(Path("mine.measured.part.json")).cases) == 2

    outcome, second = interrupted(monkeypatch, cli, None)
    assert outcome.code == 1
    assert not set(first.asked) & set(second.asked)
    assert not Path("mine.measured.part.json").exists()
    in_pieces = Path("mine.measured.json").read_bytes()

    Path("mine.measured.json").unlink()
    _, at_once = interrupted(monkeypatch, cli, None)
    assert at_once.asked == first.asked + second.asked
    assert Path("mine.measured.json").read_bytes() == in_pieces


@pytest.mark.usefixtures("named")
def test_what_another_version_of_the_tool_measured_is_measured_again(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = interrupted(monkeypatch, cli, 2)
    _, newer = interrupted(monkeypatch, cli, None, "2.0")
    assert newer.asked[:2] == first.asked
    assert read_measurements(Path("mine.measured.json")).tool.version == "2.0"


@pytest.mark.usefixtures("named")
def test_a_line_that_was_changed_is_measured_again(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, cli, 2)
    changed = {**TARGET, "operators": {**TARGET["operators"], "Conv": "cpu"}}  # type: ignore[dict-item]
    Path("mine.yaml").write_text(json.dumps(changed), encoding="utf-8")
    _, second = interrupted(monkeypatch, cli, None)
    assert [key for key in second.asked if key.startswith("Conv")]
    assert {each.said for each in read_measurements(Path("mine.measured.json")).cases if each.op == "Conv"} == {"cpu"}


@pytest.mark.usefixtures("named")
def test_an_interruption_before_the_first_case_leaves_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, _ = interrupted(monkeypatch, cli, 0)
    assert outcome.code == 130
    assert "goes on there" not in outcome.err
    assert [path.name for path in Path().iterdir()] == ["mine.yaml"]


@pytest.mark.usefixtures("named")
def test_it_is_written_as_it_goes(monkeypatch: pytest.MonkeyPatch, named: Named) -> None:
    kept = Kept(Path("mine.measured.json"), seconds=0.0)
    seen: list[int] = []

    def keep(found: Measurements) -> None:
        kept(found)
        seen.append(len(read_measurements(kept.path).cases))

    planned = plan(named.target, ["any"], ["Conv"], forms=False)
    measure(named, planned, Stand(), keep=keep)
    assert seen == list(range(1, len(planned.cases) + 1))


@pytest.mark.usefixtures("named")
def test_a_line_says_how_far_it_is_where_there_is_no_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_SECONDS", 0.0)
    outcome, stand = interrupted(monkeypatch, cli, None)
    total = len(stand.asked)
    assert f"{total} cases on a-tool 1.0: 1 of {total}" in outcome.err
    assert f"{total} cases on a-tool 1.0: {total} of {total}" in outcome.err


@pytest.mark.usefixtures("named")
def test_another_file_in_its_place_is_refused_in_a_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.measured.part.json").write_text("{}", encoding="utf-8")
    outcome, _ = interrupted(monkeypatch, cli, None)
    assert outcome.code == 2
    assert "mine.measured.part.json: these are no measurements of probe" in outcome.err
    assert Path("mine.measured.part.json").read_text(encoding="utf-8") == "{}"
