"""The SVG bar plot: what it says, that it is well-formed whatever the texts hold, and where its bars end."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest

from graphsurgery.report.plot import Bar, bar_plot

SVG = "{http://www.w3.org/2000/svg}"


def parsed(text: str) -> ElementTree.Element:
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    return root


def lengths(root: ElementTree.Element) -> list[float]:
    return [float(bar.get("width", "")) for bar in root.iter(f"{SVG}rect") if "bar" in bar.get("class", "").split()]


def texts(root: ElementTree.Element) -> list[str]:
    return [each.text or "" for each in root.iter(f"{SVG}text")]


def test_bars_stand_in_the_given_order_with_lengths_in_proportion() -> None:
    root = parsed(bar_plot("layers", "", [Bar("one", 10), Bar("two", 20), Bar("three", 5)], "dB"))
    one, two, three = lengths(root)
    assert two == pytest.approx(2 * one, abs=0.2)
    assert one == pytest.approx(2 * three, abs=0.2)
    labels = [text for text in texts(root) if text in ("one", "two", "three")]
    assert labels == ["one", "two", "three"]
    assert {"10.0", "20.0", "5.0"} <= set(texts(root))


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "a & b", "\"'><svg onload=x>", "]]>", "a\x00b\x1b[0m\ud800"]
)
def test_texts_can_not_become_markup(hostile: str) -> None:
    text = bar_plot(hostile, hostile, [Bar(hostile, 3.0, hostile)], hostile, goal=1.0)
    root = parsed(text.encode("utf-8").decode("utf-8"))
    assert {each.tag.removeprefix(SVG) for each in root.iter()} <= {
        "svg", "title", "style", "rect", "text", "path", "g",
    }  # fmt: skip
    assert not any(name.startswith("on") for each in root.iter() for name in each.attrib)


def test_a_long_label_keeps_its_ends_and_stands_in_full_in_its_title() -> None:
    long = "/backbone/" + "block/" * 30 + "the/last/Conv"
    root = parsed(bar_plot("layers", "", [Bar(long, 3.0, "Conv")], "dB"))
    (shown,) = (text for text in texts(root) if "\N{HORIZONTAL ELLIPSIS}" in text)
    assert shown.startswith("/backbone/")
    assert shown.endswith("the/last/Conv")
    assert len(shown) <= 60
    assert any((title.text or "").startswith(f"{long}: 3.0 dB, Conv") for title in root.iter(f"{SVG}title"))


def test_what_loses_nothing_has_no_bar_and_says_so() -> None:
    root = parsed(bar_plot("layers", "", [Bar("one", None), Bar("two", 20)], "dB"))
    assert len(lengths(root)) == 1
    assert "none lost" in texts(root)


def test_a_bar_below_zero_ends_where_the_others_begin() -> None:
    root = parsed(bar_plot("layers", "", [Bar("bad", -5.0), Bar("good", 20.0)], "dB"))
    bad, good = (bar for bar in root.iter(f"{SVG}rect") if "bar" in bar.get("class", "").split())
    assert float(bad.get("x", "")) + float(bad.get("width", "")) == pytest.approx(float(good.get("x", "")), abs=0.2)


def test_bars_that_miss_the_goal_are_told_apart_and_the_goal_is_named() -> None:
    root = parsed(bar_plot("layers", "", [Bar("bad", 15.0), Bar("good", 25.0)], "dB", goal=20.0))
    kinds = [bar.get("class") for bar in root.iter(f"{SVG}rect") if "bar" in bar.get("class", "").split()]
    assert kinds == ["bar below", "bar"]
    assert "goal 20 dB" in texts(root)


def test_bars_beyond_the_limit_are_counted() -> None:
    root = parsed(bar_plot("layers", "", [Bar(str(at), at + 1.0) for at in range(10)], "dB", most=4))
    assert len(lengths(root)) == 4
    assert "Not shown: 6 more." in texts(root)


@pytest.mark.parametrize("values", [[], [0.0], [None], [1e-12], [1e9, 1.0], [-3.0], [math.inf, 2.0], [math.nan, 2.0]])
def test_any_numbers_stay_inside_the_picture(values: list[float | None]) -> None:
    root = parsed(bar_plot("layers", "", [Bar("layer", value) for value in values], "dB"))
    width = float(root.get("viewBox", "").split()[2])
    for bar in root.iter(f"{SVG}rect"):
        assert 0 <= float(bar.get("x", "0")) <= float(bar.get("x", "0")) + float(bar.get("width", "")) <= width
    for text in root.iter(f"{SVG}text"):
        assert 0 <= float(text.get("x", "")) <= width


def test_the_explanation_is_broken_into_lines_that_do_not_overlap() -> None:
    root = parsed(bar_plot("layers", "word " * 100, [Bar("one", 1.0)], "dB"))
    lines = [text for text in root.iter(f"{SVG}text") if (text.text or "").startswith("word")]
    assert len(lines) > 2
    heights = [float(line.get("y", "")) for line in lines]
    assert all(below - above >= 14 for above, below in pairwise(heights))


def test_it_follows_the_system_into_the_dark_and_loads_nothing() -> None:
    text = bar_plot("layers", "", [Bar("one", 1.0)], "dB")
    assert "prefers-color-scheme: dark" in text
    assert text.count("http") == 1  # the namespace
