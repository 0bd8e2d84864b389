"""Passes that live in a package of their own, installed as pip installs it, and what becomes of names that clash."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from conftest import Cli

from graphsurgery.rewrite.registry import discover
from graphsurgery.testing import assert_rewrites, assert_untouched

ROOT = Path(__file__).parent.parent
PACKAGE = Path(__file__).parent / "plugin_package"
AcmeMergeRelus = discover([PACKAGE / "graphsurgery_acme.py"]).get("acme-merge-relus")
HEAD = '<ir_version: 8, opset_import: ["": 17]>'

RECIPE = """\
source: {onnx: model.onnx}
capture: {samples: 1}
passes: [acme-merge-relus]
check: {tolerance: {y: 0}}
"""
MODEL = f"""
{HEAD}
g (float[1, 3, 8, 8] image) => (float[1, 3, 8, 8] y) {{
    a = Relu (image)
    b = Relu (a)
    y = Neg (b)
}}"""

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run graphsurgery in a process that has the package on its path, installed without network."""
    for needed in ("pip", "setuptools"):
        if importlib.util.find_spec(needed) is None:  # importing setuptools into this process would take distutils over
            pytest.skip(f"{needed} is not installed")
    folder = tmp_path_factory.mktemp("installed")
    source, site = folder / "source", folder / "site"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__"))  # setuptools leaves files beside it
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--no-input")
    pip = [sys.executable, "-m", "pip", "install", *offline, "--target", str(site), str(source)]
    done = subprocess.run(pip, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr

    def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(site), str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "graphsurgery", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
        return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=cwd, env=environment, timeout=300)

    return run


def test_an_installed_package_brings_its_passes(installed: Command, tmp_path: Path) -> None:
    done = installed("passes", "acme-merge-relus", "--json", "-", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    described = json.loads(done.stdout)
    assert described["summary"].startswith("Merge two Relus in a row into one")
    assert Path(described["file"]).parent.name == "site"


def test_a_recipe_names_its_passes_like_any_other(installed: Command, tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "model.onnx")
    (tmp_path / "model.yaml").write_text(RECIPE, encoding="utf-8")
    done = installed("apply", "model.yaml", "--out", "parts", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (part,) = (tmp_path / "parts").glob("*.onnx")
    assert [node.op_type for node in onnx.load(part).graph.node] == ["Relu", "Neg"]
    run = json.loads((tmp_path / "parts" / "run.json").read_text(encoding="utf-8"))
    assert [(step["name"], step["verdict"]) for step in run["passes"]] == [("acme-merge-relus", "passed")]


def test_without_the_package_the_recipe_is_refused(cli: Cli, tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "model.onnx")
    (tmp_path / "model.yaml").write_text(RECIPE, encoding="utf-8")
    outcome = cli("apply", tmp_path / "model.yaml", "--out", tmp_path / "parts")
    assert outcome.code == 2
    assert "unknown pass 'acme-merge-relus'" in outcome.last_line


def test_a_plugin_that_takes_the_name_of_an_installed_pass_is_refused(installed: Command, tmp_path: Path) -> None:
    shutil.copy(PACKAGE / "graphsurgery_acme.py", tmp_path / "mine.py")
    done = installed("passes", "--plugin", "mine.py", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "pass 'acme-merge-relus' is also defined in" in line
    assert "mine.py" in line
    assert "graphsurgery_acme.py" in line


def test_two_plugins_with_one_name_are_refused_with_both_files(cli: Cli, tmp_path: Path) -> None:
    files = [tmp_path / "first.py", tmp_path / "second.py"]
    for file in files:
        shutil.copy(PACKAGE / "graphsurgery_acme.py", file)
    outcome = cli("passes", "--plugin", files[0], "--plugin", files[1])
    assert outcome.code == 2
    assert len(outcome.err.strip().splitlines()) == 1
    assert all(str(file) in outcome.last_line for file in files)


# --- the pass itself, as its package would test it ----------------------------------------------------------------


def test_two_relus_become_one() -> None:
    before = f"{HEAD} g (float[2] x) => (float[2] y) {{ a = Relu (x)  b = Relu (a)  c = Relu (b)  y = Neg (c) }}"
    after = f"{HEAD} g (float[2] x) => (float[2] y) {{ c = Relu (x)  y = Neg (c) }}"
    assert_rewrites(AcmeMergeRelus(), before, after)


@pytest.mark.parametrize(
    ("outputs", "more", "reason"),
    [
        ("float[2] y, float[2] a", "", "the Relu before it is a graph output"),
        ("float[2] y, float[2] z", "z = Neg (a)", "something else reads the Relu before it"),
    ],
)
def test_leaves_a_relu_that_is_read_elsewhere_alone(outputs: str, more: str, reason: str) -> None:
    text = f"{HEAD} g (float[2] x) => ({outputs}) {{ a = Relu (x)  y = Relu (a)  {more} }}"
    assert_untouched(AcmeMergeRelus(), text, reason)
