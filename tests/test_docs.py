"""What the documentation shows happens as it says; docs/passes.md is what the passes say of themselves.

The pages on flows that need no vendor's tool are followed by the tests of these flows, in tests/pipeline.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bars import write_images, write_parts
from conftest import Cli
from pages import ROOT, blocks, follow, shows
from PIL import Image
from zoo.one_stage import written

from graphsurgery.demo.shapes import VAL_SEED, write_dataset
from graphsurgery.graph.expansion.registry import operators
from graphsurgery.recipe.load import load_recipe
from graphsurgery.report.passes import paragraphs, reference
from graphsurgery.rewrite.registry import discover

TUTORIAL = ROOT / "docs" / "write-a-pass.md"


@pytest.mark.whole
def test_the_tutorial_does_what_it_shows(tmp_path: Path) -> None:
    for package in ("hypothesis", "onnx_ir", "onnxscript"):
        pytest.importorskip(package)
    assert follow(TUTORIAL, tmp_path).blocks > 8


@pytest.mark.whole
def test_the_tutorial_on_detectors_does_what_it_shows(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    written(tmp_path, "yolo").rename(tmp_path / "detector.onnx")
    assert follow(ROOT / "docs" / "bring-your-detector.md", tmp_path).blocks > 6
    before, boxes, int8 = (Image.open(tmp_path / name) for name in ("photos/1.png", "boxes.png", "int8.png"))
    assert before.size == boxes.size == int8.size
    assert before.tobytes() != boxes.tobytes()


def test_the_page_on_compilers_does_what_it_shows(tmp_path: Path) -> None:
    write_parts(tmp_path / "parts")
    write_images(tmp_path, 2)[0].rename(tmp_path / "photos")
    assert follow(ROOT / "docs" / "compilers.md", tmp_path).blocks == 2


@pytest.mark.whole
@pytest.mark.toolchain("rknn")
def test_the_page_on_rk3588_does_what_it_shows(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("pycocotools")
    annotations = write_dataset(tmp_path / "set", 3, VAL_SEED)
    (annotations.parent / "images").rename(tmp_path / "photos")
    annotations.rename(tmp_path / "instances.json")
    assert follow(ROOT / "docs" / "flows" / "rk3588.md", tmp_path).blocks == 3
    assert (tmp_path / "found.png").is_file()


def test_the_recipe_on_the_page_on_rk3588_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "flows" / "rk3588.md").read_text(encoding="utf-8")
    (recipe,) = [block for block in blocks(page) if block.value == "mine.yaml"]
    (tmp_path / "mine.yaml").write_text(recipe.text, encoding="utf-8")
    assert load_recipe(str(tmp_path / "mine.yaml"), registry=discover()).name == "mine"


@pytest.mark.whole
@pytest.mark.toolchain("vela")
def test_the_page_on_ethos_u_does_what_it_shows(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    annotations = write_dataset(tmp_path / "set", 1, VAL_SEED)
    (annotations.parent / "images").rename(tmp_path / "photos")
    assert follow(ROOT / "docs" / "flows" / "ethos-u.md", tmp_path).blocks == 3
    assert (tmp_path / "found.png").is_file()


def test_the_page_on_custom_operators_does_what_it_shows_and_lists_all(tmp_path: Path) -> None:
    page = ROOT / "docs" / "custom-operators.md"
    assert follow(page, tmp_path).blocks == 3
    packaged = {".".join(filter(None, key)) for key, kind in operators().items() if "custom_ops" in kind.__module__}
    listed = re.findall(
        r"`([\w.]+)`", "".join(re.findall(r"^\| (`.*?) \|", page.read_text(encoding="utf-8"), re.MULTILINE))
    )
    assert sorted(listed) == sorted(packaged)


def test_what_is_shown_is_looked_for_line_by_line() -> None:
    assert shows("a\nb  1 x\nc\n", "a\nb 1...\n")
    assert not shows("a\nb\n", "b\na\n")
    assert not shows("a\nbc\n", "b\n")


def test_the_page_on_the_passes_is_up_to_date() -> None:
    found = discover()
    own = [cls for name in found.names() if (cls := found.get(name)).__module__.startswith("graphsurgery.passes.")]
    page = (ROOT / "docs" / "passes.md").read_text(encoding="utf-8")
    assert page == reference(own), "make it anew: python -m graphsurgery passes --markdown > docs/passes.md"


def test_the_page_has_a_section_for_every_pass_that_the_table_links_to(cli: Cli) -> None:
    page = cli("passes", "--markdown").out
    linked = re.findall(r"\]\(#([a-z0-9-]+)\)", page)
    assert linked == re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert set(linked) >= {"widen-maxpool", "set-attributes"}


def test_a_section_shows_the_picture_the_refusals_and_the_options(cli: Cli) -> None:
    outcome = cli("passes", "widen-maxpool", "--markdown")
    section = outcome.out[outcome.out.index("## widen-maxpool") :]
    assert "Effect: approximate." in section
    assert "```text\nMaxPool(kernel 1x1, strides s, pads 0)  ->" in section
    assert "\n\n1. the kernel is wider than 1x1 already\n2. " in section
    assert "| `kernel` | `int` | `3` |" in section


def test_what_means_something_in_markdown_is_kept_from_it(cli: Cli) -> None:
    page = cli("passes", "set-attributes", "--markdown").out
    assert r"pattern with \* and ?" in page
    assert r"| `op` | `str \| None` | `None` |" in page
    assert "| `nodes` | `str` | required |" in page


def test_a_paragraph_and_an_item_of_a_list_are_one_line_and_a_picture_stays() -> None:
    text = "One sentence\nover two.\n\n    a  ->\n      b\n\nIt stops when\n1. the first\n   thing happens\n2. another"
    wrapped = "One sentence over two.\n\n    a  ->\n      b\n\nIt stops when\n\n1. the first thing happens\n2. another"
    assert paragraphs(text) == wrapped


def test_one_kind_of_output_at_a_time(cli: Cli) -> None:
    outcome = cli("passes", "--markdown", "--json", "-")
    assert outcome.code == 2
    assert "give one of them" in outcome.last_line
