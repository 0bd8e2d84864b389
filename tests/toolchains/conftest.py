from __future__ import annotations

from pathlib import Path

import pytest

from toolchains import fake


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of one's own."""
    monkeypatch.setenv("GRAPHSURGERY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package."""
    folder = tmp_path_factory.mktemp("wheels")
    fake.write_wheel(folder, "smalltool", "1.2", "def answer():\n    return 42\n")
    return folder


@pytest.fixture
def offline(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pip look into `wheels` and nowhere else, and no uv be found."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setattr("graphsurgery.toolchains.install.shutil.which", lambda name: None)
