import json
from pathlib import Path

import pytest
from conftest import Cli

from graphsurgery.rewrite.registry import discover
from graphsurgery.targets.find import names
from graphsurgery.targets.helps import helps
from graphsurgery.targets.load import load_target
from graphsurgery.targets.schema import parse_fix

MINE = """
title: My NPU
sources: {guide: {title: My guide, version: 2.1, date: 2026-03-01, basis: document}}
source: guide
tensors: {static: true, else: refused, fix: {static: [freeze-shapes]}}
others: cpu
operators:
  Relu: taken
  MaxPool:
    - {when: {auto_pad: VALID}, kernel: 2..3, stride: ..2,
       fix: {kernel: [split-large-maxpool], stride: [split-large-pool]}}
    - {kernel: 2..3, fix: {kernel: [split-large-maxpool]}}
  Neg, Sum: {taken: false, else: refused, fix: [lower-neg], at: table 3}
  Slice: {constant: [starts, ends], fix: [fold-constants]}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINE, encoding="utf-8")
    return path


def test_each_line_that_names_passes_is_told_with_its_limit(mine: Path) -> None:
    found = helps(load_target(str(mine), discover()))
    assert [(each.operators, each.passes, each.taken, each.outcome) for each in found] == [
        (("any",), ("freeze-shapes",), "static true", "refused"),
        (("MaxPool",), ("split-large-maxpool",), "kernel 2 to 3 (when auto_pad VALID)", "cpu"),
        (("MaxPool",), ("split-large-pool",), "stride at most 2 (when auto_pad VALID)", "cpu"),
        (("MaxPool",), ("split-large-maxpool",), "kernel 2 to 3", "cpu"),
        (("Neg", "Sum"), ("lower-neg",), "never", "refused"),
        (("Slice",), ("fold-constants",), "starts constant, ends constant", "cpu"),
    ]
    assert found[4].to_json() == {
        "operators": ["Neg", "Sum"],
        "passes": ["lower-neg"],
        "limits": {},
        "when": {},
        "outcome": "refused",
        "source": "My guide 2.1, 2026-03-01 (document)",
        "at": "table 3",
    }


def test_every_pass_that_a_target_names_is_listed_for_it() -> None:
    registry = discover()
    for name in names():
        named = load_target(name, registry)
        rules = [*named.target.general, named.target.other]
        rules += [rule for operator in named.target.operators for rule in named.target.rules(operator)]
        written = {fix for rule in rules for limit in (None, *_limits(rule.fix)) for fix in rule.fixes(limit)}
        assert {fix for each in helps(named) for fix in each.passes} == written
        assert {parse_fix(fix)[0] for fix in written} <= set(registry.names())


def _limits(fix: object) -> list[str]:
    return list(fix) if isinstance(fix, dict) else []


def test_the_command_shows_them_with_their_sources(cli: Cli, mine: Path) -> None:
    shown = cli("passes", "--target", mine)
    assert shown.code == 0
    told = " ".join(shown.out.split())
    assert "What helps on My NPU" in told
    assert "lower-neg Neg, Sum never refused" in told
    assert "My guide 2.1, 2026-03-01 (document)" in told
    as_json = json.loads(cli("passes", "--target", mine, "--json", "-").out)
    assert [each["passes"] for each in as_json][:2] == [["freeze-shapes"], ["split-large-maxpool"]]


@pytest.mark.parametrize("more", [["widen-maxpool"], ["--op", "MaxPool"], ["--markdown"]])
def test_a_target_goes_with_no_other_choice(cli: Cli, mine: Path, more: list[str]) -> None:
    assert cli("passes", "--target", mine, *more).code == 2


def test_an_unknown_target_is_told_with_those_that_are_near(cli: Cli) -> None:
    wrong = cli("passes", "--target", "rk3589")
    assert wrong.code == 2
    assert "rk3588" in wrong.err
