"""Tables fit 80 columns, and what matters in them can be read whatever the names are."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from graphsurgery.gate.equivalence import compare
from graphsurgery.gate.gate import Ruling
from graphsurgery.gate.tolerances import Tolerance, Tolerances
from graphsurgery.gate.verdicts import TensorReport, Verdict, merge
from graphsurgery.report import terminal
from graphsurgery.report.run_record import Step, VariantRecord

LONG = "backbone.fpn.layer_blocks.4.0/conv/BatchNormalization_output_0"
LONGER = "a_name_without_any_place_to_break_it_" * 4
RAMP = np.linspace(-1, 1, 50)


def verdict(name: str, off: float, tolerances: Tolerances | None = None) -> Verdict:
    return merge([("000001", compare({name: RAMP}, {name: RAMP + off}, tolerances or Tolerances()))])


def step(name: str, part: str | None, off: float | None, tensor: str = "boxes", effect: str | None = "exact") -> Step:
    made = Step(name, part, effect, 2385, 2686, 123.456)
    if off is not None:
        made.judge(Ruling(verdict(tensor, off)))
    return made


def lines(table: Table, width: int = 80) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue().splitlines()


def cells(table: Table) -> list[list[str]]:
    """The words of each line, as a reader sees them at 80 columns."""
    return [line.split() for line in lines(table)]


STEPS = [
    step("simplify", None, 0, "masks_pasted"),
    step("replace-unit-maxpool", "backbone_rpn", 1.2e-5, "pred_bbox_deltas_4"),
    step(
        "widen-maxpool-of-a-plugin-with-a-very-long-name", "a_part_with_a_name_of_some_length", 1.5, LONG, "approximate"
    ),
    step("freeze-batch", "box_head", 9, LONGER),
    step(LONGER, LONGER, None),
]
PARTS = [
    {
        "name": "backbone_rpn",
        "device": "npu",
        "nodes": 164,
        "ops": {"BatchNormalization": 81, "ConvTranspose": 60, "NonMaxSuppression": 20, "A": 3, "B": 2, "C": 1},
    },
    {"name": LONGER, "device": LONGER, "nodes": 1_000_000, "ops": {LONGER: 1}},
]
DETECTIONS: list[dict[str, Any]] = [
    {"class": "traffic light", "score": 0.98765, "box": [1.4, 2.6, 1919.9, 1079.5]},
    {"class": LONGER, "score": None, "box": [None, 1e30, -1e30, 0.0]},
]
EVALUATION = {
    "samples": 100_000,
    "ap": {"bbox": {"original": 0.85312, "parts": 0.85}, "keypoints": {"original": 0.5, "parts": 0.625}},
}
COMPARISON = Verdict(
    (
        *verdict(LONG, 1.23456e-5).tensors,
        TensorReport(LONGER, "inconclusive", "", 1e-300, 1, 1, 1, -123.4, 1e-300, 1e-300, "relative"),
        TensorReport("gone", "failed", "missing: it was captured but not computed"),
    )
)
TABLES = {
    "steps": terminal.steps_table("Passes", STEPS),
    "parts": terminal.parts_table(PARTS),
    "precision": terminal.precision_table(EVALUATION),
    "comparison": terminal.comparison_table(f"{LONGER}/model_io and {LONGER}", COMPARISON),
    "detections": terminal.detections_table("2 detections", DETECTIONS),
    "plain": terminal.plain_table(LONGER, [LONGER, "type", "default"], [[LONGER, LONGER, LONGER], ["a", "", "b"]]),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_fits_80_columns(name: str) -> None:
    seen = lines(TABLES[name])
    assert max(map(len, seen)) <= 80
    assert not any("…" in line for line in seen)


@pytest.mark.parametrize("name", TABLES)
def test_no_character_of_a_long_name_is_lost(name: str) -> None:
    wide = "".join(lines(TABLES[name], 1000))
    narrow = "".join(lines(TABLES[name]))
    assert "".join(sorted(narrow)).strip() == "".join(sorted(wide)).strip()
    assert wide.count(LONGER) == {"steps": 3, "parts": 3, "comparison": 3, "detections": 1, "plain": 5}.get(name, 0)


def test_numbers_and_verdicts_of_steps_stay_in_one_piece() -> None:
    text = "\n".join(lines(terminal.steps_table("Passes", STEPS)))
    for word in ("2385 > 2686", "123.46 s", "passed", "failed", "unchecked", "replace-unit-maxpool", "backbone_rpn:"):
        assert word in text
    for words in ("pred_bbox_deltas_4", "1.3e-05 / 0.0001", "0 / 0.0001", "9 / 0.0001"):
        assert words in text


def test_numbers_and_verdicts_stay_in_one_piece_on_a_narrow_terminal() -> None:
    text = "\n".join(lines(terminal.steps_table("Passes", [Step("fold" * 20, "box_head", "exact", 2385, 2686)]), 45))
    for words in ("2385 > 2686", "0.00 s", "unchecked"):
        assert words in text


def test_a_step_says_whether_it_changed_the_number_of_nodes() -> None:
    same = Step("chain", nodes_before=7, nodes_after=7)
    rows = cells(terminal.steps_table("Checks", [same, Step("fold", None, "exact", 7, 5, 0.004)]))
    assert rows[2] == ["chain", "7", "unchecked"]
    assert rows[3] == ["fold", "7", ">", "5", "0.00", "s", "unchecked"]


def test_a_pass_that_changed_nothing_is_unchanged() -> None:
    rows = cells(terminal.steps_table("Passes", [Step("fold", None, "exact", 7, 7, verdict="passed")]))
    assert rows[2] == ["fold", "7", "0.00", "s", "passed", "unchanged"]


def test_an_approximate_pass_is_marked_and_explained() -> None:
    seen = lines(terminal.steps_table("Passes", [step("widen-maxpool", None, 0, effect="approximate")]))
    assert "widen-maxpool ~" in seen[2]
    assert seen[-1].strip() == "~ approximate: judged by what the recipe grants it"
    assert "approximate" not in "\n".join(lines(terminal.steps_table("Passes", [step("fold", None, 0)])))


def test_a_failed_step_without_a_number_names_the_tensor() -> None:
    failed = Step("fold", None, "exact", 7, 7)
    failed.judge(Ruling(merge([("1", compare({"boxes": RAMP}, {}, Tolerances()))])))
    assert cells(terminal.steps_table("Passes", [failed]))[2][-2:] == ["failed", "boxes"]


def test_parts_show_their_five_most_frequent_operators() -> None:
    text = " ".join(" ".join(lines(terminal.parts_table(PARTS[:1]))).split())
    assert "backbone_rpn npu 164 BatchNormalization 81, ConvTranspose 60, NonMaxSuppression 20, A 3, B 2, ..." in text
    assert "C 1" not in text


def test_precision_shows_both_sides_and_the_difference() -> None:
    rows = cells(terminal.precision_table(EVALUATION))
    assert rows[-4:] == [
        ["bbox", "AP", "0.8531", "0.8500"],
        ["-0.0031"],
        ["keypoints", "AP", "0.5000", "0.6250"],
        ["+0.1250"],
    ]


def test_precision_has_a_column_for_each_variant() -> None:
    row = {"original": 0.8, "parts": 0.8, "int8": 0.79, "xint8": 0.78, "htp": 0.795}
    table = terminal.precision_table({"samples": 100, "ap": {"bbox": row, "segm": row}})
    assert cells(table)[-5] == ["what", *row]
    assert cells(table)[-1] == ["+0.0000", "-0.0100", "-0.0200", "-0.0050"]
    assert max(map(len, lines(table))) <= 80


def test_a_variant_that_was_left_out_says_why() -> None:
    left_out = VariantRecord("xint8", verdict="skipped", reason="it needs quark")
    assert str(terminal.variant_table(left_out)) == "Variant xint8: left out. it needs quark"
    made = terminal.variant_table(VariantRecord("htp", {"npu": "qnn"}, "passed", passes=STEPS[:1]))
    assert lines(made)[0].strip() == "Variant htp, npu on qnn"


def test_a_comparison_shows_what_is_off_what_is_allowed_and_what_would_pass() -> None:
    tolerances = Tolerances({"scores": Tolerance(absolute=0.3)})
    reports = (
        *verdict("boxes", 0).tensors,
        *verdict("masks", 0.00123).tensors,
        *verdict("scores", 0.3001, tolerances).tensors,
    )
    rows = cells(terminal.comparison_table("a and b", Verdict(reports)))
    assert rows[2] == ["boxes", "passed", "0", "0.0001", "equal", "0"]
    assert rows[3][:4] + rows[3][-2:] == ["masks", "failed", "0.0013", "0.0001", "rel", "0.0013"]
    assert rows[4][:4] + rows[4][-1:] == ["scores", "failed", "0.31", "0.3", "0.31"]


def test_what_is_shown_as_a_tolerance_that_would_pass_does_pass() -> None:
    for off in (1.0000001e-4, 0.0999, 1 / 3, 7.77e-9):
        report = verdict("boxes", off, Tolerances({"boxes": Tolerance(absolute=0)})).tensors[0]
        shown = cells(terminal.comparison_table("t", Verdict((report,))))[2][-1]
        assert verdict("boxes", off, Tolerances({"boxes": Tolerance(absolute=float(shown))})).verdict == "passed"


def test_infinite_numbers_can_be_shown() -> None:
    report = TensorReport("boxes", "failed", "", math.inf, math.inf, math.inf, None, -math.inf, 0.5, None)
    assert cells(terminal.comparison_table("t", Verdict((report,))))[2] == [
        "boxes",
        "failed",
        "inf",
        "0.5",
        "-inf",
        "dB",
    ]


def test_tensors_that_failed_without_a_number_are_explained() -> None:
    reports = compare({"a": RAMP, "b": RAMP, "c": RAMP}, {"a": RAMP[:3], "b": RAMP + 1}, Tolerances())
    assert terminal.without_numbers(reports) == [
        "a: shape (3,) where (50,) was captured",
        "c: missing: it was captured but not computed",
    ]


def test_detections_show_class_score_and_box() -> None:
    rows = cells(terminal.detections_table("2 detections", DETECTIONS[:1]))
    assert rows[2] == ["traffic", "light", "0.988", "1", "3", "1920", "1080"]
    unknown = {"class": "7", "score": None, "box": [None, None, None, None]}
    assert cells(terminal.detections_table("1", [unknown]))[2] == ["7", "-", "-", "-", "-", "-"]


def test_brackets_in_names_are_text_and_no_markup() -> None:
    name = "x[bold]y[/]"
    tables: Sequence[Table] = (
        terminal.steps_table(name, [step(name, name, 0.5, name)]),
        terminal.parts_table([{"name": name, "device": name, "nodes": 1, "ops": {name: 1}}]),
        terminal.comparison_table(name, verdict(name, 0)),
        terminal.detections_table(name, [{"class": name, "score": 1.0, "box": [0.0, 0.0, 1.0, 1.0]}]),
        terminal.plain_table(name, ["a"], [[name]]),
    )
    for table in tables:
        text = "".join(lines(table, 200))
        assert text.count(name) == text.count("x[") >= 2


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(Console, "is_terminal", True)


def printed(stderr: bool, capsys: pytest.CaptureFixture[str]) -> str:
    console = terminal.console(stderr=stderr)
    for table in TABLES.values():
        console.print(table)
    console.print("[bold red]error[/]", "1.5")
    out, err = capsys.readouterr()
    assert not (out if stderr else err)
    return err if stderr else out


@pytest.mark.usefixtures("on_a_terminal")
@pytest.mark.parametrize("stderr", [False, True])
def test_a_terminal_gets_colours_unless_no_color_is_set(
    stderr: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "\x1b[" in printed(stderr, capsys)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = printed(stderr, capsys)
    assert "\x1b" not in plain
    assert "replace-unit-maxpool" in plain
