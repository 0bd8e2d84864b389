"""What the documentation shows happens as it says; docs/passes.md is what the passes say of themselves."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from bars import write_images, write_parts
from conftest import Cli
from PIL import Image
from spellings.detectron2 import exported
from zoo.one_stage import written

from graphsurgery.demo.shapes import VAL_SEED, write_dataset
from graphsurgery.graph.expansion.registry import operators
from graphsurgery.recipe.load import load_recipe
from graphsurgery.report.passes import paragraphs, reference
from graphsurgery.rewrite.registry import discover

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "write-a-pass.md"


@dataclass(frozen=True)
class Block:
    """A fenced block, its language, the comment above it (`file: x.py`), and the line that it begins at."""

    language: str
    note: str
    value: str
    text: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    pattern = re.compile(r"(?:<!-- (\w+): (.+?) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for found in pattern.finditer(page):
        note, value, language, text = found.groups(default="")
        yield Block(language, note, value, text, page.count("\n", 0, found.start()) + 1)


def run(block: Block, folder: Path) -> str:
    """Run the commands of a block one after another; return what all of them print."""
    printed = ""
    commands = block.text.replace("\\\n", " ").splitlines()
    for number, command in enumerate(commands, 1):
        words = shlex.split(command)
        assert words[0] == "python", f"line {block.line}: {command}"
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=300,
        )
        expected = int(block.value) if block.note == "exit" and number == len(commands) else 0
        assert done.returncode == expected, f"line {block.line}: {command}\n{done.stdout}"
        printed += done.stdout
    return printed


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "FORCE_COLOR"))}
    return {**inherited, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1", "COLUMNS": "120"}


def shows(printed: str, wanted: str) -> bool:
    """Whether the lines of `wanted` are printed in this order; ... stands for anything, one space for several."""
    lines = [re.escape(" ".join(line.split())).replace(r"\.\.\.", ".*") for line in wanted.strip().splitlines()]
    at = 0
    seen = [" ".join(line.split()) for line in printed.splitlines()]
    for line in lines:
        at = next((number + 1 for number in range(at, len(seen)) if re.fullmatch(line, seen[number])), -1)
        if at < 0:
            return False
    return True


def edited(text: str, change: str) -> str:
    lines = change.splitlines(keepends=True)
    old, new = ("".join(line[1:] for line in lines if line[0] == sign) for sign in "-+")
    assert text.count(old) == 1, f"not there, or more than once:\n{old}"
    return text.replace(old, new)


def follow(page: Path, folder: Path) -> int:
    """Do what a page says, in a folder; return how many blocks of commands it has."""
    printed, ran = "", 0
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "sh":
            printed, ran = run(block, folder), ran + 1
        elif block.language == "text":
            assert shows(printed, block.text), f"line {block.line}: shown\n{block.text}\nprinted\n{printed}"
        elif block.note == "file":
            (folder / block.value).write_text(block.text, encoding="utf-8")
        else:
            assert block.note == "edit", f"line {block.line}: what is this block for?"
            path = folder / block.value
            path.write_text(edited(path.read_text(encoding="utf-8"), block.text), encoding="utf-8")
    return ran


@pytest.mark.whole
def test_the_tutorial_does_what_it_shows(tmp_path: Path) -> None:
    for package in ("hypothesis", "onnx_ir", "onnxscript"):
        pytest.importorskip(package)
    assert follow(TUTORIAL, tmp_path) > 8


@pytest.mark.whole
def test_the_tutorial_on_detectors_does_what_it_shows(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    written(tmp_path, "yolo").rename(tmp_path / "detector.onnx")
    assert follow(ROOT / "docs" / "bring-your-detector.md", tmp_path) > 6
    before, boxes, int8 = (Image.open(tmp_path / name) for name in ("photos/1.png", "boxes.png", "int8.png"))
    assert before.size == boxes.size == int8.size
    assert before.tobytes() != boxes.tobytes()


def test_the_page_on_compilers_does_what_it_shows(tmp_path: Path) -> None:
    write_parts(tmp_path / "parts")
    write_images(tmp_path, 2)[0].rename(tmp_path / "photos")
    assert follow(ROOT / "docs" / "compilers.md", tmp_path) == 2


@pytest.mark.whole
def test_the_page_on_ascends_flow_does_what_it_shows(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    onnx.save(exported(11), tmp_path / "detector.onnx")
    write_dataset(tmp_path, 3, VAL_SEED)
    (tmp_path / "images").rename(tmp_path / "photos")
    assert follow(ROOT / "docs" / "flows" / "ascend.md", tmp_path) == 3


@pytest.mark.whole
def test_the_page_on_magicmind_does_what_it_shows(tmp_path: Path) -> None:
    for package in ("torch", "pycocotools"):
        pytest.importorskip(package)
    from spellings import mmdet

    mmdet.written(tmp_path / "mmdet_maskrcnn.onnx")
    write_dataset(tmp_path, 3, VAL_SEED)
    (tmp_path / "images").rename(tmp_path / "photos")
    assert follow(ROOT / "docs" / "flows" / "magicmind.md", tmp_path) == 4
    graph = onnx.load(tmp_path / "mine" / "compiled" / "magicmind" / "mine" / "mine.onnx").graph
    assert "grid_sampler" in {node.op_type for node in graph.node}


@pytest.mark.whole
def test_the_page_on_riscv_does_what_it_shows(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("pycocotools")
    from spellings.unrolled_batchnorm import write

    from graphsurgery.demo.shapes import VAL_SEED, write_dataset

    write("zoo", tmp_path / "detector.onnx")
    annotations = write_dataset(tmp_path / "set", 2, VAL_SEED)
    (annotations.parent / "images").rename(tmp_path / "photos")
    annotations.rename(tmp_path / "instances.json")
    (tmp_path / "drawn").mkdir()
    assert follow(ROOT / "docs" / "flows" / "riscv.md", tmp_path) == 5
    assert (tmp_path / "data" / "box_head" / "test_data_set_1" / "output_0.pb").is_file()
    assert (tmp_path / "device.png").is_file()


@pytest.mark.whole
@pytest.mark.toolchain("rknn")
def test_the_page_on_rk3588_does_what_it_shows(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("pycocotools")
    annotations = write_dataset(tmp_path / "set", 3, VAL_SEED)
    (annotations.parent / "images").rename(tmp_path / "photos")
    annotations.rename(tmp_path / "instances.json")
    assert follow(ROOT / "docs" / "flows" / "rk3588.md", tmp_path) == 3
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
    assert follow(ROOT / "docs" / "flows" / "ethos-u.md", tmp_path) == 3
    assert (tmp_path / "found.png").is_file()


def test_the_page_on_custom_operators_does_what_it_shows_and_lists_all(tmp_path: Path) -> None:
    page = ROOT / "docs" / "custom-operators.md"
    assert follow(page, tmp_path) == 3
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
