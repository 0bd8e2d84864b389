"""support: what of a model an accelerator takes, on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
from bars import write_parts
from conftest import Applied, Cli

from cli.children import process
from graphsurgery.targets.find import names
from graphsurgery.testing import parse

DETECTOR = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 8, 16, 16] x) => (float[1, 8, 32, 32] y)
    <float[8, 1, 3, 3] w = {WEIGHTS}, float[4] s = {1, 1, 2, 2}> {
        a = Conv <group = 8, pads = [1, 1, 1, 1]> (x, w)
        b = MaxPool <kernel_shape = [5, 5], pads = [2, 2, 2, 2]> (a)
        c = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (b, , s)
        y = Relu (c)
    }"""
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "targets.md"


@pytest.fixture
def detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("detector.onnx")
    onnx.save(parse(DETECTOR.replace("WEIGHTS", ", ".join(["0.5"] * 72))), path)
    return path


def test_a_model_that_is_taken_whole_ends_with_0(cli: Cli, detector: Path) -> None:
    outcome = cli("support", detector, "--target", "generic-cnn")
    assert outcome.code == 0
    assert "detector.onnx on A CNN accelerator, any" in outcome.out
    assert re.search(r"4 of 4 +100\.0% of 18\.4 k +1", outcome.out)
    assert "why" not in outcome.out


def test_a_model_that_is_not_ends_with_1_and_says_why_and_what_helps(cli: Cli, detector: Path) -> None:
    outcome = cli("support", detector, "--target", "rk3576", "--precision", "float16")
    assert outcome.code == 1
    told = " ".join(outcome.out.split())
    assert "detector.onnx on Rockchip RK3576, float16" in told
    assert "3 of 4 100.0% of" in told
    assert "1 Resize cpu" in told
    assert "resize-mode to=half_pixel" in told
    assert "RKNN Compiler Support Operator List 2.3.2, 2025-03-31 (document)" in told


def test_what_helps_does(cli: Cli, detector: Path) -> None:
    from graphsurgery.graph.model import Model
    from graphsurgery.passes.resize_mode import ResizeMode
    from graphsurgery.rewrite.apply import apply_pass

    apply_pass(ResizeMode(to="half_pixel"), Model.load(detector)).model.save(Path("fixed.onnx"))
    assert cli("support", "fixed.onnx", "--target", "rk3576").code == 0


def test_a_line_for_each_target(cli: Cli, detector: Path) -> None:
    outcome = cli("support", detector, "--target", "all", "--json", "all.json")
    assert outcome.code == 1
    assert f"detector.onnx on {len(names())} targets" in outcome.out
    assert [each["target"] for each in json.loads(Path("all.json").read_text(encoding="utf-8"))] == names()
    assert re.search(r"^rk3576 +int8 +3 of 4 +100\.0% +2$", re.sub(r" +\n", "\n", outcome.out), re.MULTILINE)


def test_everything_fits_80_columns(detector: Path, tmp_path: Path) -> None:
    for target in ("all", "ryzen-ai", "axelera"):
        outcome = process("support", "detector.onnx", "--target", target, cwd=tmp_path, COLUMNS="80")
        assert outcome.code in (0, 1), outcome.err
        assert max(map(len, outcome.out.splitlines())) <= 80


def test_json_for_programs(cli: Cli, detector: Path) -> None:
    outcome = cli("support", detector, "--target", "rk3576", "--json", "-")
    assert outcome.code == 1
    (found,) = json.loads(outcome.out)
    assert (found["model"], found["target"], found["precision"]) == ("detector.onnx", "rk3576", "int8")
    assert (found["nodes"], found["nodes_taken"], found["islands"]) == (4, 3, 2)
    assert found["multiply_adds"] == found["multiply_adds_taken"] > 0
    (left,) = found["left"]
    assert (left["op"], left["outcome"], left["limit"]) == ("Resize", "cpu", "coordinate_transformation_mode")
    assert (left["seen"], left["allowed"]) == ("asymmetric", "half_pixel, pytorch_half_pixel or align_corners")
    assert left["fixes"] == ["resize-mode to=half_pixel", "lower-nearest-resize"]
    assert left["source"].startswith("RKNN Compiler Support Operator List 2.3.2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "rk3587"), "unknown target 'rk3587'; a file of your own ends in .yaml. Nearest: rk3588"),
        (("--target", "none.yaml"), "none.yaml"),
        (("--target", "rk3588", "--precision", "int4"), "target 'rk3588' has no precision 'int4', but int8, float16."),
        (("--target", "all", "--precision", "int8"), "--precision goes with one target"),
        (("--target", "rk3588", "--json", "no/folder/x.json"), "no file can be written there"),
    ],
)
def test_bad_input_is_one_line_and_ends_with_2(
    arguments: tuple[str, ...], message: str, cli: Cli, detector: Path
) -> None:
    outcome = cli("support", detector, *arguments)
    assert outcome.code == 2
    assert message in outcome.last_line
    assert outcome.out == ""


def test_a_file_that_is_no_model(cli: Cli, detector: Path) -> None:
    detector.write_bytes(b"no model")
    assert cli("support", detector, "--target", "rk3588").code == 2


def test_a_recipe_whose_parts_are_not_made_says_how(cli: Cli, detector: Path) -> None:
    outcome = cli("support", "shapes", "--target", "rk3588")
    assert outcome.code == 2
    assert "there are no parts yet; make them: python -m graphsurgery apply shapes" in outcome.last_line


def test_the_parts_of_a_folder_that_are_for_an_accelerator(cli: Cli, tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts")
    outcome = cli("support", folder, "--target", "rk3588")
    assert outcome.code == 2  # its only part is the host's
    assert "none of its parts is for an accelerator; give the file of one" in outcome.last_line


def test_certify_ends_as_apply_does_for_a_target(cli: Cli, detector: str, tmp_path: Path) -> None:
    Path("mine.yaml").write_text("extends: generic-cnn\ntitle: Mine\noperators: {Conv: cpu}\n", encoding="utf-8")
    assert cli("support", detector, "--target", "mine.yaml").code == 1
    assert cli("support", detector, "--target", "mine.yaml", "--certify").code == 0
    Path("mine.yaml").write_text("extends: generic-cnn\ntitle: Mine\noperators: {Conv: refused}\n", encoding="utf-8")
    outcome = cli("support", detector, "--target", "mine.yaml", "--certify", "--json", "found.json")
    assert outcome.code == 2
    assert "refuses it: Conv" in outcome.last_line
    assert json.loads(Path("found.json").read_text("utf-8"))[0]["left"]
    outcome = cli("support", detector, "--target", "all", "--certify")
    assert outcome.code == 2
    assert "--certify goes with one target" in outcome.last_line
    nothing = cli("support", write_parts(tmp_path / "parts"), "--target", "rk3588", "--certify", "--json", "-")
    assert (nothing.code, json.loads(nothing.out)) == (0, [])  # its only part is the host's


def test_the_parts_of_a_whole_detector(cli: Cli, shapes: Applied) -> None:
    outcome = cli("support", shapes.folder, "--target", "qnn-htp")
    assert outcome.code == 0, outcome.out
    assert outcome.out.count(" on Qualcomm HTP, float16") == 3


# --- a file of one's own ------------------------------------------------------------------------------------------


def documented(name: str) -> str:
    """Write a file that the documentation shows, and return its text."""
    page = DOCUMENTATION.read_text(encoding="utf-8")
    shown = re.search(rf"<!-- file: {re.escape(name)} -->\n```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert shown is not None
    Path(name).write_text(shown[1], encoding="utf-8")
    return shown[1]


def test_the_file_of_the_documentation_and_a_line_added_to_it(cli: Cli, detector: Path) -> None:
    text = documented("mine.yaml")
    before = cli("support", detector, "--target", "mine.yaml")
    assert before.code == 1
    assert "detector.onnx on My NPU, int8" in before.out
    assert "kernel 5, where 2 to 3 is" in " ".join(before.out.split())
    assert "Relu" not in before.out
    line = "  Relu, Add, Concat: taken\n"
    assert line in text
    Path("mine.yaml").write_text(text.replace(line, "  Relu: refused\n" + line.replace("Relu, ", "")), "utf-8")
    after = cli("support", detector, "--target", "mine.yaml")
    assert after.code == 1
    assert "1 Relu" in after.out


def test_the_sister_of_the_documentation(cli: Cli, detector: Path) -> None:
    documented("sister.yaml")
    outcome = cli("support", detector, "--target", "sister.yaml")
    assert outcome.code == 1
    assert "on Its sister, int8" in outcome.out


def test_a_mistake_in_it_is_told_by_its_line(cli: Cli, detector: Path) -> None:
    text = "title: Mine\nsources: {a: {title: A, date: 2026-01, basis: code}}\nsource: a\nothers: cpu\noperators:\n"
    Path("mine.yaml").write_text(text + "  Conv: {kernle: 3}\n", encoding="utf-8")
    outcome = cli("support", detector, "--target", "mine.yaml")
    assert outcome.code == 2
    assert outcome.last_line.removeprefix("error: ").startswith("mine.yaml:6: Conv: 'kernle' is no fact")


def test_the_sister_of_one_that_is_there(cli: Cli, detector: Path) -> None:
    Path("sister.yaml").write_text("extends: rk3588\ntitle: A sister\noperators: {Resize: taken}\n", encoding="utf-8")
    outcome = cli("support", detector, "--target", "sister.yaml")
    assert outcome.code == 0
    assert "on A sister, int8" in outcome.out
