"""A target's file: each mistake is one line with its place; files lie over one another; names are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graphsurgery.errors import InputError, RecipeError
from graphsurgery.targets.find import names
from graphsurgery.targets.load import load_target
from graphsurgery.targets.schema import Allowed, Target, parse_fix
from targets.nodes import registry

HEAD = """\
title: My NPU
sources:
  list: {title: A list, version: 1.0, date: 2026-03, basis: document}
source: list
precisions: [int8, float16]
others: cpu
operators:
"""
Load = Callable[..., Target]
FIRST = HEAD.count("\n") + 1  # the line of the first operator


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)

    def load(operators: str, head: str = HEAD, name: str = "mine.yaml") -> Target:
        Path(name).write_text(head + operators, encoding="utf-8")
        return load_target(name, registry()).target

    return load


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        (
            "  Covn: {kernel: 3}",
            "'Covn' is no operator of ONNX; one of another domain is written DOMAIN.NAME. Did you mean",
        ),
        ("  Conv: {kernle: 3}", "Conv: 'kernle' is no fact, and no attribute or input of Conv. Did you mean 'kernel'?"),
        ("  Relu: {ceil_mode: 0}", "Relu: 'ceil_mode' is no fact, and no attribute or input of Relu."),
        ("  Conv: {width * chanels: 3}", "Conv: 'chanels' is no fact"),
        ("  Conv: {when: {kernle: 3}}", "Conv: 'kernle' is no fact"),
        ("  Conv: {source: page}", "Conv.source: there is no 'page' in this file, but list."),
        ("  Conv: {precisions: [fp16]}", "Conv.precisions: there is no 'fp16' in this file, but int8, float16."),
        ("  Conv: {when: {precision: fp16}}", "Conv.when: there is no 'fp16' in this file, but int8, float16."),
        ("  Conv: {precision: int8}", "Conv: 'precision' is no fact"),
        ("  Conv: {fix: split-conv}", "Conv.fix: 'split-conv' is no pass."),
        ("  Conv: {kernel: 3, fix: {stride: lower-gemm}}", "Conv.fix: there is no limit 'stride' here."),
        ("  Conv: {kernel: 3, else: {stride: cpu}}", "Conv.else: there is no limit 'stride' here."),
        ("  Resize: {fix: resize-mode to=half}", "Resize.fix: resize-mode to=half: "),
        ("  Resize: {fix: resize-mode too=half_pixel}", "Resize.fix: resize-mode too=half_pixel: "),
        ("  Resize: {fix: resize-mode to}", "Resize.fix: resize-mode to: 'to' should be an option with its value"),
        ("  Conv: {constant: Weights}", "Conv.constant: Conv has no input 'Weights'."),
        ("  Conv: {omitted: bias}", "Conv.omitted: Conv has no input 'bias'."),
        ("  Conv: {written: stride}", "Conv.written: Conv has no input or attribute 'stride'. Did you mean 'strides'?"),
        ("  Conv: {when: {kernel: 1..3}, kernel: 5..7}", "Conv: kernel 5..7 contradicts when: {kernel: 1..3}"),
        ("  Conv: {when: {channels: 65..100}, channels: multiple of 64}", "Conv: channels multiple of 64 contradicts"),
        ("  Conv: {kernel: 8..1}", "'8..1' holds nothing: its end comes before its beginning"),
        ("  Conv: {kernel: 1...8}", "'1...8' is no range; write 1..8, 1.. or ..8"),
        ("  Conv: {kernel: ..}", "'..' is no range"),
        ("  Conv: {channels: multiple of x}", "'multiple of x' is no multiple; write multiple of 64"),
        ("  Conv: {kernel: {least: 1}}", "should be a value, a range such as 1..8, or a list of these"),
        ("  Conv: {kernel: []}", "should be a value, a range such as 1..8, or a list of these"),
        ("  Conv: {kernel: [1, [2]]}", "should be a value, a range such as 1..8, or a list of these"),
        ("  Conv: {taken: 1}", "operators.Conv.taken should be true or false, got 1"),
        ("  Conv: {else: slow}", "should be 'cpu', 'refused', 'crash', 'wrong' or 'unknown', got 'slow'"),
        ("  Conv: {else: taken}", "got 'taken'"),
        (
            "  Conv: fast",
            "operators.Conv should be 'taken', 'cpu', 'refused', 'crash', 'wrong' or 'unknown', got 'fast'",
        ),
        ("  Conv: []", "operators.Conv should have an item or more"),
        ("  Conv: 5", "operators.Conv"),
        ("  Conv: {note: 5}", "operators.Conv.note should be text, got 5"),
        ("  Conv: {when: 5}", "operators.Conv.when should be a mapping, got 5"),
        ("  Relu, Relu: taken", "'Relu' stands in 'Relu, Relu' already; write it once"),
    ],
)
def test_a_mistake_is_told_by_its_line(operators: str, message: str, load: Load) -> None:
    with pytest.raises(RecipeError) as raised:
        load(operators)
    said = str(raised.value)
    assert said.startswith(f"mine.yaml:{FIRST}: ")
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("operators", "line", "message"),
    [
        ("  Relu: taken\n  Conv, Relu: cpu", 1, "'Relu' stands in 'Relu' already; write it once"),
        ("  Conv:\n    - {kernel: 3}\n    - {kernel: 5}", 1, "no rule behind this one is ever reached"),
        (
            "  Conv:\n    - {when: {groups: 1}}\n    - {when: {groups: 1}, kernel: 3}\n    - {}",
            2,
            "this rule is never reached, since one before it has the same `when`",
        ),
        ("  Conv:\n    - {when: {groups: 1}, kernle: 3}", 1, "'kernle' is no fact"),
        ("  Conv:\n    - {kernel: 3,\n       fix: none-such}", 2, "'none-such' is no pass"),
    ],
)
def test_a_mistake_of_several_lines_is_told_by_the_one_at_fault(
    operators: str, line: int, message: str, load: Load
) -> None:
    with pytest.raises(RecipeError) as raised:
        load(operators)
    assert str(raised.value).startswith(f"mine.yaml:{FIRST + line}: ")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("title: My NPU", "titel: My NPU", 1, "unknown key 'titel'. Did you mean 'title'?"),
        ("source: list", "source: lost", 4, "source: there is no 'lost' in this file, but list. Did you mean 'list'?"),
        ("basis: document", "basis: rumour", 3, "'rumour'"),
        ("date: 2026-03", "date: March", 3, "date"),
        ("others: cpu", "others: sometimes", 6, "'sometimes'"),
        ("others: cpu", "others: {fix: none}", 6, "others.fix: 'none' is no pass."),
        ("others: cpu", "others: cpu\nelse: taken", 7, "'taken'"),
        ("others: cpu", "others: cpu\ntensors: {mode: nearest}", 7, "tensors: 'mode' is no fact"),
        ("precisions: [int8, float16]", "precisions: []", 5, "precisions"),
        ("title: My NPU\n", "", 1, "lacks 'title'"),
    ],
)
def test_a_mistake_above_the_operators_is_told_by_its_line(
    old: str, new: str, line: int, message: str, load: Load
) -> None:
    assert old in HEAD
    with pytest.raises(RecipeError) as raised:
        load("  Relu: taken", HEAD.replace(old, new))
    assert str(raised.value).startswith(f"mine.yaml:{line}: ")
    assert message in str(raised.value)


@pytest.mark.parametrize("text", ["", "- Conv\n", "Conv\n"])
def test_a_file_that_is_no_target(text: str, load: Load) -> None:
    with pytest.raises(RecipeError, match=r"^mine.yaml:1: a target is a mapping with title"):
        load("", text)


def test_an_operator_of_another_domain_may_have_any_attribute(load: Load) -> None:
    found = load("  mmcv.grid_sampler: {interpolation_mode: 0}\n  QLinearRelu: taken")
    assert set(found.rules("mmcv.grid_sampler")[0].limits) == {"interpolation_mode"}
    assert found.rules("QLinearRelu")  # a custom operator of the default domain


def test_names_share_a_line(load: Load) -> None:
    found = load("  Relu, Add: {rank: 4}\n  Conv: taken")
    assert found.rules("Relu") == found.rules("Add") != found.rules("Conv")
    assert found.rules("Mul") == ()


# --- one file over another ----------------------------------------------------------------------------------------


def test_a_file_lies_over_the_one_that_it_extends(load: Load) -> None:
    load("  Conv, Relu: {rank: 4}\n  Add: cpu\n  Gemm: {transA: 0, note: old}", name="base.yaml")
    over = "extends: base.yaml\ntitle: Its sister\nsources:\n  page: {title: A page, date: 2026-04, basis: code}\n"
    found = load("operators:\n  Relu: refused\n  Add: null\n  Gemm: {rank: 2, source: page}\n", over)
    assert found.title == "Its sister"
    assert set(found.sources) == {"list", "page"}
    assert found.precisions == ("int8", "float16")
    assert [set(found.rules(op)[0].limits) for op in ("Conv", "Gemm")] == [{"rank"}, {"rank"}]
    assert not found.rules("Relu")[0].taken
    assert found.rules("Add") == ()
    assert found.rules("Gemm")[0].note is None  # a line is replaced whole


def test_a_mistake_in_what_is_extended_is_told_by_its_own_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(HEAD + "  Conv: {kernle: 3}", encoding="utf-8")
    with pytest.raises(RecipeError, match=rf"^base.yaml:{FIRST}: Conv: 'kernle'"):
        load("", "extends: base.yaml\n")


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("none.yaml", "extends: there is no file none.yaml beside this one"),
        ("rk3587", "extends: unknown target 'rk3587'; a file of your own ends in .yaml. Nearest: rk3588"),
        ("5", "extends should be the name of a target, or a path that ends in .yaml"),
        ("mine.yaml", "extends 'mine.yaml' leads back to mine.yaml; a target can't extend itself"),
    ],
)
def test_what_can_not_be_extended(extends: str, message: str, load: Load) -> None:
    with pytest.raises(RecipeError) as raised:
        load("", f"extends: {extends}\n")
    assert str(raised.value).startswith("mine.yaml:1: ")
    assert message in str(raised.value)


def test_one_of_the_package_can_be_extended(load: Load) -> None:
    found = load("", "extends: rk3588\ntitle: Mine\noperators: {Relu: cpu}\n")
    assert not found.rules("Relu")[0].taken
    assert found.rules("TopK")


# --- names --------------------------------------------------------------------------------------------------------


def test_an_unknown_name_has_a_guess() -> None:
    with pytest.raises(InputError, match=r"^unknown target 'rk3587'; .* Nearest: rk3588, "):
        load_target("rk3587", registry())


def test_a_precision_that_a_target_has_not_has_a_guess() -> None:
    found = load_target("rk3588", registry())
    assert found.precision(None) == "int8"
    with pytest.raises(
        InputError, match=r"target 'rk3588' has no precision 'float15', but int8, float16\. Did you mean"
    ):
        found.precision("float15")


def test_targets_of_another_package_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acme.yaml").write_text(HEAD + "  Relu: taken\n", encoding="utf-8")
    monkeypatch.setattr("graphsurgery.plugins.entry_points_of", lambda group: [tmp_path])
    assert "acme" in names()
    assert load_target("acme", registry()).target.title == "My NPU"
    (tmp_path / "rk3588.yaml").write_text(HEAD, encoding="utf-8")
    with pytest.raises(InputError, match=r"target 'rk3588' is also in .*; rename one"):
        names()


@pytest.mark.parametrize("value", ["no/such/folder", 5])
def test_an_entry_point_that_is_no_folder(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphsurgery.plugins.entry_points_of", lambda group: [value])
    with pytest.raises(InputError, match=r"entry point of graphsurgery\.targets: .* is no folder of \.yaml files"):
        names()


def test_a_name_in_capitals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ACME.yaml").touch()
    monkeypatch.setattr("graphsurgery.plugins.entry_points_of", lambda group: [tmp_path])
    with pytest.raises(InputError, match="a target needs a name in lower case"):
        names()


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        ("1..8", [1, 8, 2.5, (1, 8)], [0, 9, (1, 9), True, "1"]),
        ("..8", [-5, 8], [9]),
        ("-3..-1", [-3, -1], [0, -4]),
        ([1, 2, 4], [1, (2, 4), ()], [3, (1, 3)]),
        ("multiple of 64", [0, 64, 128, (64, 128)], [32, (64, 65), True, "64"]),
        ("nearest", ["nearest"], ["linear"]),
        (0, [0], [False, 1]),
        (True, [True], [1, False]),
        (0.5, [0.5], [0.25]),
    ],
)
def test_what_a_limit_holds(written: object, inside: list[object], outside: list[object]) -> None:
    allowed = Allowed.of(tuple(written) if isinstance(written, list) else written)
    assert [value for value in inside if not allowed.holds(value)] == []  # type: ignore[arg-type]
    assert [value for value in outside if allowed.holds(value)] == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("1..3", "3..5", True),
        ("1..3", "4..5", False),
        ("..3", "1..", True),
        ("1..", "multiple of 64", True),
        ("100..200", "multiple of 64", True),
        ("65..127", "multiple of 64", False),
        ("multiple of 4", "multiple of 6", True),
        (4, "multiple of 6", False),
    ],
)
def test_whether_two_limits_meet(one: object, other: object, meet: bool) -> None:
    assert Allowed.of(one).meets(Allowed.of(other)) == Allowed.of(other).meets(Allowed.of(one)) == meet


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("1..8", "1 to 8"),
        ("..8", "at most 8"),
        ("1..", "at least 1"),
        (("nearest", "linear", "cubic"), "nearest, linear or cubic"),
        ("multiple of 64", "a multiple of 64"),
        (True, "true"),
    ],
)
def test_how_a_limit_is_told(written: object, told: str) -> None:
    assert Allowed.of(written).told == told


def test_a_fix_may_have_options() -> None:
    assert parse_fix("lower-gemm") == ("lower-gemm", {})
    assert parse_fix("split-large-pool largest=16 deep=true to=half_pixel") == (
        "split-large-pool",
        {"largest": 16, "deep": True, "to": "half_pixel"},
    )
