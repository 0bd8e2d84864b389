from dataclasses import dataclass

import pytest

from graphsurgery.operators.pattern import Pattern
from graphsurgery.report.passes import describe_pass, text_of
from graphsurgery.rewrite import NodePass


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


def test_a_pass_without_a_pattern_has_its_docstring_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphsurgery.report.passes.picture", lambda pass_: "Does this.\n\nEnd.")
    assert text_of(NodePass) == "Does this.\n\nEnd."
