"""picture: graphs as SVG and HTML, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import onnx
import pytest
from bars import write_parts
from conftest import Cli
from picture.graphs import X, model

TARGET = """
title: Mine
sources: {list: {title: a list, date: "2026", basis: document}}
source: list
others: taken
operators: {Neg: {taken: false, else: cpu}}
"""


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("graph.onnx")
    onnx.save(model("a = Relu (x)  b = Neg (a)  y = Sqrt (b)").proto, path)
    return path


def test_draws_a_graph(cli: Cli, graph: Path) -> None:
    pytest.importorskip("pygraphviz")
    outcome = cli("picture", graph, "-o", "graph.svg")
    assert (outcome.code, outcome.out, outcome.err) == (0, "graph.svg\n", "")
    texts = {text.text for text in ElementTree.parse("graph.svg").iter("{http://www.w3.org/2000/svg}text")}
    assert {"graph.onnx", "3 nodes", "x", "Relu", "Neg", "Sqrt", "y", f"1{X}2{X}8{X}8"} <= texts


def test_draws_a_region_in_the_colours_of_a_target(cli: Cli, graph: Path) -> None:
    pytest.importorskip("pygraphviz")
    Path("mine.yaml").write_text(TARGET, encoding="utf-8")
    outcome = cli("picture", graph, "--around", "b", "--depth", 0, "--target", "mine.yaml", "-o", "region.html")
    assert outcome.code == 0, outcome.err
    page = Path("region.html").read_text(encoding="utf-8")
    assert "1 of 3 nodes, around b" in page
    assert "on Mine" in page
    assert "1 left to the CPU" in page


def test_draws_each_part_of_a_folder(cli: Cli, graph: Path) -> None:
    pytest.importorskip("pygraphviz")
    write_parts(Path("parts"))
    assert cli("picture", "parts", "-o", "parts.html").code == 0
    assert "<h2>" in Path("parts.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["graph.onnx", "-o", "graph.png"], "error: --out graph.png: a picture is an .svg or an .html file; name one"),
        (["graph.onnx", "--precision", "int8", "-o", "a.svg"], "error: --precision goes with --target"),
        (["graph.onnx", "--around", "q", "-o", "a.svg"], "error: --around q: no node and no tensor has this name."),
        (["graph.onnx", "--target", "rk3589", "-o", "a.svg"], "error: unknown target 'rk3589'"),
        (["graph.onnx", "graph.onnx", "--around", "a", "-o", "a.svg"], "error: --around goes with one model"),
        (["nowhere.onnx", "-o", "a.svg"], "error: nowhere.onnx: can't be read"),
        (["graph.onnx", "-o", "no/such/folder/a.svg"], "error: no/such/folder/a.svg: can't be written"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(cli: Cli, graph: Path, given: list[str], said: str) -> None:
    pytest.importorskip("pygraphviz")
    outcome = cli("picture", *given)
    assert outcome.code == 2
    assert outcome.last_line.startswith(said)
    assert [path.name for path in Path().iterdir()] == ["graph.onnx"]


def test_without_the_extra_it_ends_with_3_and_says_how_to_get_it(
    cli: Cli, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = cli("picture", graph, "-o", "a.svg")
    assert outcome.code == 3
    assert outcome.last_line.endswith("pip install 'graphsurgery[picture]'")


def test_draws_what_differs_between_two_graphs(cli: Cli, graph: Path) -> None:
    pytest.importorskip("pygraphviz")
    onnx.save(model("a = Relu (x)  b = Sin (a)  y = Sqrt (b)").proto, "after.onnx")
    outcome = cli("picture", graph, "after.onnx", "-o", "difference.html")
    assert outcome.code == 0
    assert " ".join(outcome.out.split()) == "places before -> after 1 Neg -> Sin difference.html"
    page = Path("difference.html").read_text(encoding="utf-8")
    assert all(said in page for said in ("3 nodes before, 3 after", "before, 1 node", "box node gone", "box node new"))


def test_what_is_drawn_is_there_as_json(cli: Cli, graph: Path) -> None:
    pytest.importorskip("pygraphviz")
    outcome = cli("picture", graph, "-o", "graph.svg", "--json", "-")
    (figure,) = json.loads(outcome.out)
    assert [box["title"] for box in figure["panels"][0]["boxes"]] == ["x", "Relu", "Neg", "Sqrt", "y"]
    assert outcome.err == "graph.svg\n"


def test_draws_nothing_where_nothing_differs(cli: Cli, graph: Path) -> None:
    pytest.importorskip("pygraphviz")
    outcome = cli("picture", graph, graph, "-o", "difference.html")
    assert outcome.code == 0
    assert outcome.out == "graph.onnx and graph.onnx have the same nodes: there is no difference to draw\n"
    assert not Path("difference.html").exists()
