"""What scripts/check --lowest installs, and what scripts/check --record writes."""

from __future__ import annotations

import runpy
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
