"""The files that `new-pass` writes: they load, run and are in good style as they are."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from conftest import Cli

import graphsurgery
from graphsurgery.errors import InputError
from graphsurgery.rewrite.registry import Registry
from graphsurgery.testing import new_pass as scaffold
from graphsurgery.testing.new_pass import new_pass

ROOT = Path(graphsurgery.__file__).parent.parent
# one input, weights, integers, several outputs, required attributes, none of a tensor type, gone since, none at all
OPERATORS = ("Relu", "Conv", "Gather", "DynamicQuantizeLinear", "TfIdfVectorizer", "SequenceAt", "Upsample", "Constant")
LONGEST = "lower-" + "o" * 30


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """An empty checkout, with the real one's settings."""
    (tmp_path / "passes").mkdir()
    (tmp_path / "tests" / "passes").mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def process(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment = {**inherited, "PYTHONPATH": path, "MYPYPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=cwd, env=environment, timeout=300)


# --- what is written ----------------------------------------------------------------------------------------------


def test_a_plugin_and_its_test_load_and_fail_only_where_the_rewrite_is_missing(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    outcome = cli("new-pass", "lower-oddity", "--matches", "Conv", "--plugin", file)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[:2] == [str(file), str(tmp_path / "test_mine.py")]
    shown = cli("passes", "lower-oddity", "--plugin", file)
    assert shown.code == 0, shown.err
    assert "lower-oddity (exact)" in shown.out
    done = process("pytest", "-q", "-p", "no:cacheprovider", "test_mine.py", cwd=tmp_path)
    assert "2 failed, 2 passed" in done.stdout, done.stdout
    assert "write the rewrite, and as AFTER what BEFORE becomes" in done.stdout
    assert re.search(r"in \d+ cases the pass rewrote nothing: \{'refused': \d+", done.stdout)


def test_in_a_checkout_the_files_lie_where_a_pass_and_its_test_belong(
    cli: Cli, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaffold, "__file__", str(checkout / "graphsurgery" / "testing" / "new_pass.py"))
    outcome = cli("new-pass", "lower-oddity", "--matches", "Relu", "--effect", "approximate")
    assert outcome.code == 0, outcome.err
    file = checkout / "passes" / "lower_oddity.py"
    assert (checkout / "tests" / "passes" / "test_lower_oddity.py").is_file()
    spec = importlib.util.spec_from_file_location("graphsurgery.passes.lower_oddity", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    registry = Registry()
    assert registry.add_module(module) == 1
    pass_ = registry.get("lower-oddity")
    assert (pass_.__name__, pass_.effect) == ("LowerOddity", "approximate")


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_model_in_the_test_can_be_parsed(operator: str, tmp_path: Path) -> None:
    text = new_pass("lower-oddity", operator, plugin=tmp_path / "mine.py").test_source
    model = onnx.parser.parse_model(text.split('"""')[1])
    assert [node.op_type for node in model.graph.node] == [operator]


@pytest.mark.parametrize("operator", ["Relu", "Conv", "Gather", "MatMul", "BatchNormalization", "Reshape", "TopK"])
def test_the_model_in_the_test_is_valid_where_its_inputs_can_be_guessed(operator: str, tmp_path: Path) -> None:
    text = new_pass("lower-oddity", operator, plugin=tmp_path / "mine.py").test_source
    onnx.checker.check_model(onnx.parser.parse_model(text.split('"""')[1]), full_check=True)


@pytest.mark.parametrize("plugin", [True, False])
def test_the_files_are_in_good_style_as_they_are(checkout: Path, plugin: bool) -> None:
    if shutil.which("ruff") is None and importlib.util.find_spec("ruff") is None:
        pytest.skip("ruff is not installed")
    if plugin:
        (checkout / "pyproject.toml").unlink()
    for number, operator in enumerate(OPERATORS):
        name = f"lower-oddity{number}" if number % 2 else f"{LONGEST[:-1]}{number}"
        new_pass(name, operator, plugin=checkout / f"p{number}.py" if plugin else None, root=checkout).write()
    for check in (("format", "--check"), ("check", "--select", "E,F,I,UP,B,SIM,N,PT,PTH", "--ignore", "N818")):
        done = process("ruff", *check, "--no-cache", ".", cwd=checkout)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("plugin", [True, False])
def test_the_types_are_right_as_they_are(checkout: Path, plugin: bool) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    written = new_pass("lower-oddity", "Conv", plugin=checkout / "mine.py" if plugin else None, root=checkout)
    written.write()
    done = process("mypy", "--config-file", ROOT / "pyproject.toml", written.file, written.test, cwd=checkout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_in_the_help_works(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = " ".join(cli("new-pass", "--help").out.replace("│", " ").split())
    found = re.search(r"Example: python -m graphsurgery (new-pass .*?\.py)", shown)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    outcome = cli(*found[1].split())
    assert outcome.code == 0, outcome.err
    assert len(list(tmp_path.iterdir())) == 2


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "operator", "said"),
    [
        ("Lower-Foo", "Conv", "'Lower-Foo' is no name for a pass: write lower-case words with hyphens"),
        ("lower_foo", "Conv", "is no name for a pass"),
        ("lower--foo", "Conv", "is no name for a pass"),
        ("../foo", "Conv", "is no name for a pass"),
        (LONGEST + "o", "Conv", "is too long for a name"),
        ("import", "Conv", "means something else"),
        ("node-pass", "Conv", "means something else"),
        ("widen-maxpool", "MaxPool", "is there already, in"),
        ("lower-foo", "Convv", "--matches Convv: ONNX has no such operator. Did you mean 'Conv'?"),
        ("lower-foo", "maxpool", "Did you mean 'MaxPool'?"),
        ("lower-foo", "Xyzzyq", "ONNX has no such operator."),
    ],
)
def test_refuses_in_one_line_and_writes_nothing(cli: Cli, tmp_path: Path, name: str, operator: str, said: str) -> None:
    outcome = cli("new-pass", name, "--matches", operator, "--plugin", tmp_path / "mine.py")
    assert outcome.code == 2
    assert len(outcome.err.strip().splitlines()) == 1
    assert said in outcome.last_line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["mine.py", "test_mine.py"])
def test_never_overwrites_a_file(cli: Cli, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine", encoding="utf-8")
    outcome = cli("new-pass", "lower-oddity", "--matches", "Conv", "--plugin", tmp_path / "mine.py")
    assert outcome.code == 2
    assert f"{tmp_path / there}: there is such a file already" in outcome.last_line
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text(encoding="utf-8") == "mine"


def test_leaves_no_half_where_the_second_file_can_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = new_pass("lower-oddity", "Conv", plugin=tmp_path / "mine.py")
    write_text = Path.write_text

    def full(path: Path, *arguments: object, **options: object) -> int:
        if path.name == written.test.name:
            raise OSError(28, "No space left on device")
        return write_text(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match=r"test_mine\.py: can't be written \(No space left on device\)"):
        written.write()
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a plug-in is a Python file"):
        new_pass("lower-oddity", "Conv", plugin=tmp_path / "mine.txt")
    with pytest.raises(InputError, match="there is no folder"):
        new_pass("lower-oddity", "Conv", plugin=tmp_path / "none" / "mine.py")
    with pytest.raises(InputError, match=r"is no checkout of graphsurgery; write a plug-in: --plugin lower_oddity\.py"):
        new_pass("lower-oddity", "Conv", root=tmp_path)
