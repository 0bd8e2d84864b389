"""Pictures as files: valid, whole, without a network."""

from __future__ import annotations

import re
from typing import get_args
from xml.etree import ElementTree

import psutil
import pytest

from graphsurgery.errors import MissingTool, PassError
from graphsurgery.picture.page import Figure, css, html_page, legend, svg_page
from graphsurgery.picture.plain import Outcome as Fate
from graphsurgery.picture.plain import Subject, whole
from graphsurgery.picture.scene import CHANGES, OUTCOMES, Box, Line, Scene
from graphsurgery.processes import graphviz_process
from graphsurgery.targets.schema import Outcome
from picture.graphs import X, subject

SCENE = Scene((Box("a", "<Re&lu>", about=('"',)), Box("b", "Neg", lines=("x 1",))), (Line("a", "b", f"1{X}2", "t"),))
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def graphviz() -> None:
    pytest.importorskip("pygraphviz")


def test_an_svg_is_xml_with_a_box_for_each_node() -> None:
    root = ElementTree.fromstring(svg_page("a & b", ["told"], [Figure("one", [("before", SCENE), ("after", SCENE)])]))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts == ["a & b", "told", "one", "before", f"1{X}2", "<Re&lu>", "Neg", "x 1", "after", *texts[9:]]
    assert texts.count("<Re&lu>") == 2
    assert root.attrib["viewBox"] == f"0 0 {root.attrib['width']} {root.attrib['height']}"


def test_names_that_are_no_text_are_written_out() -> None:
    bad = "a\x00\x1b[0m\ud800]]>"
    scene = Scene((Box("a", bad, lines=(bad,), about=(bad,)), Box("b", bad)), (Line("a", "b", bad, bad),))
    page = svg_page(bad, [bad], [Figure(bad, [(bad, scene)])])
    ElementTree.fromstring(page.encode())
    html_page(bad, [bad], [Figure(bad, [(bad, scene)])]).encode()


def test_nothing_overlaps_and_all_is_inside() -> None:
    plain = subject("a = Relu (x)  b = Neg (x)  c = Abs (x)  d = Add (a, b)  y = Add (c, d)")
    root = ElementTree.fromstring(svg_page("", [], [Figure("", [("", whole(plain))])]))
    frames = []
    for group in root.iter(f"{SVG}g"):
        if group.get("class", "").startswith("box"):
            x, y = map(float, re.findall(r"[-\d.]+", group.attrib["transform"]))
            (frame,) = group.findall(f"{SVG}rect")
            frames.append((x, y, x + float(frame.attrib["width"]), y + float(frame.attrib["height"])))
    assert len(frames) == 7
    for place, one in enumerate(frames):
        assert min(one) >= 0
        assert one[2] <= float(root.attrib["width"])
        assert not any(
            one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
            for other in frames[:place]
        )


def test_a_page_needs_no_network_and_no_script() -> None:
    page = html_page("a & b", ["<told>"], [Figure("one", [("before", SCENE)])])
    assert "&lt;told&gt;" in page
    assert "&lt;Re&amp;lu&gt;" in page
    assert not re.search(r"<script|https?://|@import|url\(", page)


def test_the_legend_counts_what_a_target_makes_of_the_nodes() -> None:
    plain = subject("a = Relu (x)  y = Neg (a)")
    told = Subject(plain.outline, plain.types, {0: Fate("taken"), 1: Fate("cpu", "never taken", "lower-neg")})
    page = html_page("", [], [Figure("", [("", whole(told))])])
    assert "1 taken" in page
    assert "1 left to the CPU" in page
    assert 'class="box node cpu"' in page


def test_every_outcome_of_a_target_has_a_colour_and_a_word() -> None:
    assert set(OUTCOMES) == set(get_args(Outcome))
    for each in (*OUTCOMES, *CHANGES):
        assert f".box.{each}" in css()
    boxes = [Box(each, each, outcomes={each: 1}) for each in OUTCOMES]
    assert len(legend([Figure("", [("", Scene(tuple(boxes)))])])) == len(OUTCOMES)


def test_a_scene_of_nothing_is_a_picture_too() -> None:
    ElementTree.fromstring(svg_page("", [], [Figure("", [("", Scene())])]))


def test_a_graphviz_that_crashes_or_hangs_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    graphviz_process.lay_out([(10, 10)], [])
    with graphviz_process.running.use() as process:
        psutil.Process(process.pid).kill()
        psutil.wait_procs([psutil.Process(process.pid)], timeout=10)
    monkeypatch.setattr(graphviz_process, "_SECONDS", 30.0)
    # the next one starts another
    assert graphviz_process.lay_out([(10, 10)], []).boxes == [[5, 5]]
    monkeypatch.setattr(graphviz_process, "_SECONDS", 0.0)
    crowd = [graphviz_process.Sized(a, b, 0, 0) for a in range(60) for b in range(a + 1, 60)]
    with pytest.raises(PassError, match=r"a picture: Graphviz was stopped after 0 s.*draw less of it"):
        graphviz_process.lay_out([(10, 10)] * 60, crowd)


def test_without_the_extra_the_message_is_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingTool, match=r"pip install 'graphsurgery\[picture\]'"):
        graphviz_process.require()
