"""Rows of a sweep: read back, as a spreadsheet and a page, and held against those of an earlier one."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from graphsurgery.errors import InputError
from graphsurgery.sweep.page import render
from graphsurgery.sweep.rows import ROWS, Row, read_rows, worse
from graphsurgery.sweep.tables import as_csv, as_json

GOOD = Row("net@npu", "net", "npu", None, "passed", None, 3, 20, 18, 1000, 990, {"bbox": 0.5}, {"bbox": 0.51}, 12.5, 99)
BAD = Row("net@other", "=net", "other", None, "crashed", "SIGSEGV: <b>dead</b>")


def test_rows_are_read_back_as_they_were(tmp_path: Path) -> None:
    (tmp_path / ROWS).write_text(json.dumps(as_json([GOOD, BAD])), encoding="utf-8")
    assert read_rows(tmp_path) == (GOOD, BAD)


@pytest.mark.parametrize("content", [None, "{", "[{}]", '[{"job": 1}]'])
def test_a_folder_that_is_no_sweeps_is_told(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / ROWS).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=ROWS):
        read_rows(tmp_path)


def test_a_table_for_a_spreadsheet_has_a_column_for_each_ap_and_no_formula() -> None:
    first, second = csv.DictReader(io.StringIO(as_csv([GOOD, BAD])))
    assert (first["ap_bbox"], first["original_ap_bbox"], first["multiply_adds_taken"]) == ("0.5", "0.51", "990")
    assert (second["ap_bbox"], second["subject"]) == ("", "'=net")
    assert as_csv([]) == "\n"


@pytest.mark.parametrize(
    ("now", "drop", "said"),
    [
        (GOOD, 0.0, None),
        (replace(GOOD, ap={"bbox": 0.6}), 0.0, None),
        (replace(GOOD, ap={"bbox": 0.49}), 0.0, "bbox AP 0.4900, 0.5000 before"),
        (replace(GOOD, ap={"bbox": 0.49}), 0.02, None),
        (replace(GOOD, ap={"bbox": None}), 0.02, "bbox AP unknown, 0.5000 before"),
        (replace(GOOD, ap={}), 0.0, "bbox AP unknown, 0.5000 before"),
        (replace(GOOD, ended="out of time", error="stopped"), 0.0, "out of time, passed before: stopped"),
        (replace(GOOD, job="new"), 0.0, "is not in this sweep any more"),
    ],
)
def test_what_got_worse_is_named(now: Row, drop: float, said: str | None) -> None:
    assert worse([now, BAD], [GOOD, BAD], drop) == ({} if said is None else {"net@npu": [said]})


def test_what_failed_before_or_is_new_cannot_get_worse() -> None:
    assert worse([BAD, GOOD], [BAD], 0.0) == {}


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_each_job_and_runs_nothing() -> None:
    page = _Text()
    html = render("zoo", [GOOD, BAD], 0, {"net@npu": ["bbox AP lower"]})
    page.feed(html)
    for said in (
        "1 of 2 jobs passed, 1 crashed, 1 got worse",
        "18 of 20",
        "99.0 %",
        "SIGSEGV: <b>dead</b>",
        "bbox AP lower",
    ):
        assert said in page.text
    assert "1 of 9 jobs passed, 1 crashed, 7 to do" in render("zoo", [GOOD, BAD], 7, {})
    assert not {"script", "b", "link", "img"} & set(page.tags) - {"b"}
    assert "http" not in html
    assert "<b>dead" not in html
    assert "host only" not in page.text.partition("Jobs")[0].partition("first AP")[2]
    assert '">host only' in render("zoo", [replace(GOOD, nodes_taken=None, multiply_adds_taken=None)], 0, {})
