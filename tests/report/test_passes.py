from dataclasses import dataclass
from pathlib import Path

import pytest

from graphsurgery.operators.pattern import Pattern
from graphsurgery.report.passes import describe_pass, text_of
from graphsurgery.rewrite import NodePass
from graphsurgery.rewrite.registry import discover


@dataclass(frozen=True)
class Base(NodePass):
    name = "base"
    effect = "exact"
    first = Pattern("Exp(x) -> Gelu(x)", "d = Exp(x)\nd * x")
    second = Pattern("Neg(x)")


@dataclass(frozen=True)
class Derived(Base):
    second = Pattern("Abs(x)")


def test_the_patterns_on_a_class_are_described_those_of_its_base_too() -> None:
    assert describe_pass(Derived)["patterns"] == ["Exp(x) -> Gelu(x)", "d = Exp(x)\nd * x", "Abs(x)"]


def test_patterns_are_the_picture_behind_the_first_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphsurgery.report.passes.picture", lambda pass_: "Does\nthis.\n\nMore.\n\nEnd.")
    picture = "    Exp(x) -> Gelu(x)\n    d = Exp(x)\n    d * x\n    Neg(x)"
    assert text_of(Base) == f"Does\nthis.\n\n{picture}\n\nMore.\n\nEnd."


def test_a_graph_of_its_tests_is_drawn_before_and_after() -> None:
    pass_ = discover().get("fold-batchnorm")
    found = describe_pass(pass_)["example"]
    assert found == {
        "before": ["x -> Conv (B 10, 20) -> BatchNormalization -> Relu -> y"],
        "after": ["x -> Conv (B 17, 18) -> Relu -> y"],
    }
    assert text_of(pass_).endswith(f"For example:\n\n    before  {found['before'][0]}\n    after   {found['after'][0]}")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"base": 1}', '{"base": {"before": []}}'])
def test_a_file_that_is_no_drawing_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "before_after.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr("graphsurgery.report.passes.source_file", lambda pass_: str(tmp_path / "base.py"))
    assert describe_pass(Base)["example"] is None


def test_a_pass_without_a_pattern_has_its_docstring_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphsurgery.report.passes.picture", lambda pass_: "Does this.\n\nEnd.")
    assert text_of(NodePass) == "Does this.\n\nEnd."
