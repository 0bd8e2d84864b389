"""What scripts/check --lowest installs, what --record writes, and what --quick tests."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CHECK = runpy.run_path(str(ROOT / "scripts" / "check"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lowest(dependencies: list[str], extras: dict[str, list[str]], extra: str = "dev") -> list[str]:
    project = {"name": "mine", "dependencies": dependencies, "optional-dependencies": {"dev": [], **extras}}
    return list(CHECK["lowest"](project, extra))


@pytest.mark.parametrize(
    ("written", "installed"),
    [
        ("a>=1.5", "a==1.5"),
        ("a<3,>=1.5,!=1.7", "a==1.5"),
        ("a~=1.5", "a==1.5"),
        ("a==1.5", "a==1.5"),
        ("a[x]>=2", "a[x]==2"),
        ("a", "a"),
        ("a<3", "a<3"),
        ('a>=2; sys_platform == "win32"', 'a==2; sys_platform == "win32"'),
    ],
)
def test_the_lowest_version_is_the_lower_bound(written: str, installed: str) -> None:
    assert lowest([written], {}) == [installed]


def test_extras_within_extras_are_followed_once() -> None:
    extras = {"dev": ["mine[x,y]", "t>=8"], "x": ["mine[y]", "b>=2"], "y": ["c>=3"]}
    assert sorted(lowest(["a>=1"], extras)) == ["a==1", "b==2", "c==3", "t==8"]


def test_every_dependency_but_stubs_has_a_lower_bound() -> None:
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    requirements = (Requirement(line) for lines in lists for line in lines)
    free = {one.name for one in requirements if CHECK["lower_bound"](one.specifier) is None}
    assert {name for name in free if not name.startswith("types-")} == {"graphsurgery"}


def constraints() -> dict[str, Requirement]:
    lines = (ROOT / "tests" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(one.name): one for one in map(Requirement, (x for x in lines if not x.startswith("#")))}


def test_the_recorded_versions_hold_every_dependency_within_its_bounds() -> None:
    recorded = constraints()
    for one in map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]):
        if one.name != "graphsurgery":
            (version,) = recorded[canonicalize_name(one.name)].specifier
            assert version.operator == "=="
            assert one.specifier.contains(version.version, prereleases=True), one


def test_what_is_recorded_is_what_is_installed() -> None:
    lines = [line for line in CHECK["recorded"]().splitlines() if not line.startswith("#")]
    found = {one.name: str(one.specifier) for one in map(Requirement, lines)}
    assert found["pytest"] == f"=={pytest.__version__}"
    assert "graphsurgery" not in found
    assert not any("+" in line or "@" in line for line in lines)


ENGINE = set(CHECK["ENGINE"])


@pytest.mark.parametrize(
    ("file", "tests"),
    [
        (
            "passes/widen_maxpool.py",
            {"tests/passes/test_widen_maxpool.py", "tests/test_backend_suite.py", "tests/test_docs.py"},
        ),
        ("tests/passes/test_widen_maxpool.py", {"tests/passes/test_widen_maxpool.py"}),
        ("graphsurgery/gate/ties.py", {"tests/gate"}),
        ("graphsurgery/testing/fuzzing/builder.py", set()),  # tests/testing is of the engine
        ("graphsurgery/errors.py", set()),
        ("tests/operators/small_graphs.py", set()),
        ("tests/gate/helper.py", {"tests/gate"}),
        ("tests/gate/test_ties.py", {"tests/gate/test_ties.py"}),
        ("tests/gate/test_that_was_removed.py", set()),
        ("recipes/shapes.yaml", {"tests/recipe"}),
        ("scripts/check", {"tests/test_check.py"}),
        ("docs/passes.md", set()),
    ],
)
def test_quick_tests_the_engine_and_what_belongs_to_a_changed_file(file: str, tests: set[str]) -> None:
    assert set(CHECK["related_tests"]([file])) == ENGINE | tests


def test_quick_tests_every_pass_that_shares_a_changed_file() -> None:
    users = {"tests/passes/test_widen_maxpool.py", "tests/passes/test_replace_unit_maxpool.py"}
    assert set(CHECK["related_tests"](["passes/_unit_pool.py"])) == ENGINE | users


def test_quick_names_a_file_once_where_its_room_is_tested_anyway() -> None:
    found = CHECK["related_tests"](["tests/gate/test_ties.py", "graphsurgery/gate/ties.py"])
    assert [test for test in found if "gate" in test] == ["tests/gate"]


def test_what_quick_always_tests_is_there() -> None:
    assert all((ROOT / test).exists() for test in ENGINE)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_changed_is_what_differs_from_where_the_branch_left_main(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        name = ("-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def write(*names: str) -> None:
        for name in names:
            (tmp_path / name).write_text(f"{name}, anew", encoding="utf-8")

    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "check", tmp_path / "scripts" / "check")
    changed = runpy.run_path(str(tmp_path / "scripts" / "check"))["changed"]
    git("init", "--quiet", "--initial-branch", "main")
    write("old.py", "on_branch.py", "by_hand.py", ".gitignore")
    (tmp_path / ".gitignore").write_text("ignored.py", encoding="utf-8")
    git("add", ".")
    git("commit", "--quiet", "-m", "old")
    assert changed() == []
    git("checkout", "--quiet", "-b", "branch")
    (tmp_path / "on_branch.py").write_text("other", encoding="utf-8")
    git("commit", "--quiet", "-a", "-m", "branch")
    git("checkout", "--quiet", "main")
    write("later_on_main.py")
    git("add", ".")
    git("commit", "--quiet", "-m", "later")
    git("checkout", "--quiet", "branch")
    (tmp_path / "by_hand.py").write_text("other", encoding="utf-8")
    write("new.py", "ignored.py")
    assert changed() == ["by_hand.py", "new.py", "on_branch.py"]


def test_without_git_nothing_is_known_to_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert CHECK["changed"]() is None


def collected(*arguments: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quick", *arguments]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    return [line for line in out.stdout.splitlines() if "::" in line]


def test_quick_leaves_out_whole_detectors_and_the_other_passes_of_the_backend_suite() -> None:
    files = ("tests/passes/test_lower_split.py", "tests/test_backend_suite.py", "tests/cli/test_evaluate.py")
    found = collected(*files)
    suite = [test.partition("[")[2] for test in found if test.startswith("tests/test_backend_suite.py")]
    assert suite
    assert all(name.startswith("lower-split") for name in suite)
    assert any(test.startswith(files[0]) for test in found)
    assert any("test_two_processes_write_what_one_writes" in test for test in found)
    assert not any("test_the_embedded_detector_has_its_ap" in test for test in found)  # it wants the fixture `shapes`


def test_quick_and_lowest_exclude_each_other() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "check"), "--quick", "--lowest"]
    outcome = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert outcome.returncode == 2
    assert "--lowest tests everything; give it without --quick" in outcome.stderr
