"""scripts/release, as far as it can be run without making a release."""

from __future__ import annotations

import datetime
import importlib.machinery
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.version import Version

ROOT = Path(__file__).parent.parent
TODAY = datetime.date(2030, 1, 2)
SOURCE = '"""The version."""\n\n__version__ = "0.1.0"\n'
CHANGELOG = """# Changelog

## next (unreleased)

- It can do more.

## 0.1.0 (2029-01-01)

- It can do something.
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("release_script", str(ROOT / "scripts" / "release"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look their module up there
    loader.exec_module(module)
    return module


def test_the_changelog_is_dated_and_the_version_set(script: ModuleType) -> None:
    release = script.plan(Version("0.2.0"), CHANGELOG, SOURCE, ["v0.1.0"], TODAY)
    assert release.changelog == CHANGELOG.replace("next (unreleased)", "0.2.0 (2030-01-02)")
    assert release.source == SOURCE.replace("0.1.0", "0.2.0")
    assert (release.notes, release.tag) == ("- It can do more.", "v0.2.0")


@pytest.mark.parametrize(
    ("version", "changelog", "source", "said"),
    [
        ("0.1.0", CHANGELOG, SOURCE, "not newer than 0.1.0"),
        ("0.3.0", CHANGELOG, SOURCE, "already"),
        ("0.2.0", CHANGELOG.replace("unreleased", "2029-05-05"), SOURCE, "first heading"),
        ("0.2.0", CHANGELOG.replace("- It can do more.\n", ""), SOURCE, "say what is new"),
        ("0.2.0", "", SOURCE, "first heading"),
        ("0.2.0", CHANGELOG, "", "version.py"),
    ],
)
def test_what_does_not_fit_is_refused(script: ModuleType, version: str, changelog: str, source: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        script.plan(Version(version), changelog, source, ["v0.3.0"], TODAY)


def test_this_changelog_could_be_released(script: ModuleType) -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    source = (ROOT / "graphsurgery" / "version.py").read_text(encoding="utf-8")
    assert script.plan(Version("99.0"), changelog, source, [], TODAY).notes.startswith("- ")


def test_a_wrong_version_changes_nothing() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "release", "newest"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert "newest is no version" in done.stderr
