"""The command: what is written where, what a manifest says of it, and what happens where something is missing."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from bars import write_images, write_parts
from conftest import Cli

from graphsurgery.parts.folder import OutputFolder, sha256_of
from graphsurgery.parts.manifest import Manifest

CHIP = ("--with", "ascend", "--option", "soc_version=Ascend310P3")
TOOL = f'''
from dataclasses import dataclass
from graphsurgery.compiling import Compiler

@dataclass(frozen=True)
class Copier(Compiler):
    """`say` is what it prints last, `code` how it ends."""
    name = "copier"
    tool = "nobody's toolkit"
    say: str = "done"
    code: int = 0

    def write(self, job):
        job.write_text("copy.py", "import shutil, sys; shutil.copy(sys.argv[1], 'made.bin');"
            f"print(sys.argv[2]); sys.exit({{self.code}})")

    def command(self, job):
        return [{sys.executable!r}, "copy.py", job.file, self.say]
'''


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    return write_parts(tmp_path / "parts")


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "copier.py").write_text(TOOL)
    return tmp_path / "copier.py"


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_files_for_a_tool_that_is_not_here(cli: Cli, parts: Path) -> None:
    before = files(parts)
    outcome = cli("compile", parts, *CHIP)
    assert (outcome.code, files(parts)) == (3, before)
    assert outcome.last_line.startswith("error: compiler 'ascend' needs 'atc' of Huawei's CANN toolkit")

    outcome = cli("compile", parts, *CHIP, "--no-run", "--json", "-")
    assert outcome.code == 0, outcome.err
    place = parts / "compiled" / "ascend"
    assert files(parts) - before == {f"compiled/ascend/{n}" for n in ("all/all.onnx", "all/atc.sh", "compiled.json")}
    said = json.loads((place / "compiled.json").read_text())
    assert json.loads(outcome.out) == {"folder": str(place), **said}
    assert (said["options"]["soc_version"], said["ran"], said["samples"]) == ("Ascend310P3", False, [])
    assert said["files"]["all/atc.sh"]["sha256"] == sha256_of(place / "all" / "atc.sh")
    assert Manifest.read(parts).compiled == {"ascend": sha256_of(place / "compiled.json")}


def test_the_parts_are_played_as_before_and_a_new_run_takes_it_away(cli: Cli, parts: Path, tmp_path: Path) -> None:
    assert cli("compile", parts, *CHIP, "--no-run").code == 0
    (parts / "compiled" / "mine.txt").write_text("mine")
    image = write_images(tmp_path, 1)[0] / "1.png"
    assert cli("run", parts, "--image", image).code == 0
    with OutputFolder(parts) as output:
        shutil.copy(parts / "all.onnx", output.work)
        manifest = Manifest.read(parts).model_copy(update={"compiled": {}})
        output.write_manifest(manifest)
        output.publish()
    assert files(parts) == {"all.onnx", "manifest.json", "compiled/mine.txt"}


def test_a_tool_is_run_and_what_it_makes_is_kept(cli: Cli, parts: Path, plugin: Path) -> None:
    outcome = cli("compile", parts, "--with", "copier", "--plugin", plugin)
    assert outcome.code == 0, outcome.err
    assert "Compiled with copier" in outcome.out
    place = parts / "compiled" / "copier" / "all"
    assert (place / "made.bin").read_bytes() == (place / "all.onnx").read_bytes()
    assert (place / "copier.log").read_text() == "done\n"
    assert json.loads((place.parent / "compiled.json").read_text())["ran"] is True


def test_a_tool_that_fails_leaves_what_was_there(cli: Cli, parts: Path, plugin: Path) -> None:
    assert cli("compile", parts, "--with", "copier", "--plugin", plugin).code == 0
    before = {name: (parts / name).read_bytes() for name in files(parts)}
    given = ("--option", "code=7", "--option", "say=no memory")
    outcome = cli("compile", parts, "--with", "copier", "--plugin", plugin, *given)
    assert outcome.code == 2
    assert outcome.last_line.endswith("ends with 7: no memory")
    assert {name: (parts / name).read_bytes() for name in files(parts)} == before


def test_images_are_written_as_the_part_reads_them(cli: Cli, parts: Path, tmp_path: Path) -> None:
    images, _ = write_images(tmp_path, 3)
    outcome = cli("compile", parts, *CHIP, "--no-run", "--images", images, "--max-samples", "2")
    assert outcome.code == 0, outcome.err
    place = parts / "compiled" / "ascend"
    assert (place / "all" / "input_bin.info").read_text() == "0 input/1.bin 12 8\n1 input/2.bin 12 8\n"
    assert json.loads((place / "compiled.json").read_text())["samples"] == ["1", "2"]


def test_another_folder_holds_all_that_is_to_be_taken_elsewhere(cli: Cli, parts: Path, tmp_path: Path) -> None:
    before = files(parts)
    out = tmp_path / "elsewhere"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for _ in range(2):  # the second time it replaces its own files
        assert cli("compile", parts, *CHIP, "--no-run", "--out", out).code == 0
    assert files(out) == {"mine.txt", "all/all.onnx", "all/atc.sh", "compiled.json"}
    assert files(parts) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--with", "asend"), "unknown compiler 'asend'. Nearest: ascend"),
        (("--with", "ascend"), "compiler 'ascend' needs the option 'soc_version'"),
        ((*CHIP, "--option", "aip=true"), "unknown option 'aip' of compiler 'ascend'"),
        ((*CHIP, "--option", "aipp=3"), "compiler 'ascend': aipp should be true or false, got 3"),
        ((*CHIP, "--part", "head"), "has no part 'head'"),
        ((*CHIP, "--no-run", "--images", "nowhere"), "nowhere: no such image or folder of images"),
    ],
)
def test_wrong_input_is_one_line(cli: Cli, parts: Path, options: tuple[str, ...], message: str) -> None:
    before = files(parts)
    outcome = cli("compile", parts, *options)
    assert (outcome.code, files(parts)) == (2, before)
    assert message in outcome.last_line


def test_a_folder_without_parts_is_told(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("compile", tmp_path, *CHIP)
    assert outcome.code == 2
    assert "give a folder that 'apply' wrote" in outcome.last_line
    assert not files(tmp_path)


def test_a_manifest_that_names_a_folder_outside_is_refused(cli: Cli, parts: Path, tmp_path: Path) -> None:
    content = json.loads((parts / "manifest.json").read_text())
    (parts / "manifest.json").write_text(json.dumps(content | {"compiled": {"../x": "0"}}))
    outcome = cli("run", parts, "--image", write_images(tmp_path, 1)[0] / "1.png")
    assert (outcome.code, "compiled '../x' is no folder" in outcome.last_line) == (2, True)


def test_a_recipe_compiles_what_it_made(cli: Cli, parts: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"source: {{onnx: {parts.name}/all.onnx}}\ncompile: {{ascend: {{soc_version: Ascend310P3}}}}\n")
    outcome = cli("apply", recipe, "--out", tmp_path / "out", "--model-io", tmp_path / "io", "--max-samples", "1")
    assert outcome.code == 0, outcome.err
    place = tmp_path / "out" / "compiled" / "ascend"
    assert f"ascend: {place}, files alone: compiler 'ascend' needs 'atc'" in outcome.out
    assert (place / "mine" / "atc.sh").is_file()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{asend: {}}", "mine.yaml:2: compile: unknown compiler 'asend'. Nearest: ascend"),
        (
            "{ascend: {}}",
            "mine.yaml:2: compiler 'ascend' needs the option 'soc_version': write ascend: {soc_version: ...",
        ),
        ("{riscv-ort: {accelerator: 7}}", "mine.yaml:2: compiler 'riscv-ort': accelerator should be 0, 1 or 2, got 7"),
    ],
)
def test_a_wrong_section_is_told_with_its_line(cli: Cli, tmp_path: Path, section: str, message: str) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"source: {{onnx: x.onnx}}\ncompile: {section}\n")
    outcome = cli("apply", recipe)
    assert outcome.code == 2
    assert message in outcome.last_line
