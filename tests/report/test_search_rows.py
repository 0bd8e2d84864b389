"""The Pareto front of a search, as the terminal and the report show it."""

from __future__ import annotations

import re
from typing import Any

from graphsurgery.report import sections
from graphsurgery.report.search_rows import front_rows, in_common, summary


def row(number: int, db: float, cost: float, *, front: bool, **setting: Any) -> dict[str, Any]:
    named = {f"{part}: quantize.{option}": value for part, chose in setting.items() for option, value in chose.items()}
    return {
        "number": number,
        "setting": named,
        "sqnr_db": db,
        "cost": cost,
        "in_integers": 1.0,
        "bytes": 2_000_000,
        "front": front,
    }


SEARCH = {
    "sqnr": 30.0,
    "max_ap_drop": None,
    "settings": 1234,
    "chosen": 2,
    "trials": [
        row(2, 31, 0.125, front=True, net={"bits": "uint16", "exclude": ["a"]}, head={"bits": "uint16", "exclude": []}),
        row(1, 25, 0.0625, front=True, net={"bits": "uint8", "exclude": []}, head={"bits": "uint8", "exclude": []}),
        row(3, 12, 0.125, front=False, net={"bits": "int16"}, head={"bits": "int16"}),
        {"number": 4, "setting": {}, "failed": "net: <script>"},
    ],
}


def test_the_front_says_in_what_its_settings_differ() -> None:
    cheap, taken = front_rows(SEARCH)
    assert (cheap.number, cheap.chosen, taken.number, taken.chosen) == (1, False, 2, True)
    assert taken.chose == "net: bits uint16, exclude 1 layer; head: bits uint16"
    assert in_common(SEARCH) == "head: exclude 0 layers"
    assert summary(SEARCH).startswith("4 of 1,234 settings tried; 1 failed, the first: net: <script>; asked for: 30 dB")


def test_the_plot_marks_what_was_taken_the_front_and_the_limit() -> None:
    shown = sections.search(SEARCH)
    assert shown is not None
    plot = str(shown["plot"])
    assert [plot.count(f'class="{kind}"') for kind in ("other", "front", "chosen", "limit")] == [1, 1, 1, 1]
    assert plot.count('class="step"') == 2
    assert all(0 <= float(share) <= 100 for share in re.findall(r'"([\d.]+)%"', plot))


def test_a_search_of_which_all_failed_has_no_plot() -> None:
    assert sections.search({**SEARCH, "trials": SEARCH["trials"][3:], "chosen": None}) is None
    assert front_rows({**SEARCH, "trials": SEARCH["trials"][3:]}) == []
