"""Wherever a command is killed, its outputs are those before it or after it, and the next command mends the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from files.kill_points import SCENARIOS

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="a process for each of hundreds of points takes too long"
)

# In CI every point is followed by one of the two commands that are tried, in turn; with this set, by both.
FULL = bool(os.environ.get("GRAPHSURGERY_ALL_KILLS"))


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost_wherever_a_command_is_killed(tmp_path: Path, name: str) -> None:
    if name == "evaluate":
        pytest.importorskip("pycocotools")
    if name == "picture":
        pytest.importorskip("pygraphviz")
    if name == "run --video":
        pytest.importorskip("av")
    arguments = [sys.executable, "-m", "files.kill_points", name, str(tmp_path / "work"), *(["full"] * FULL)]
    tests = Path(__file__).parent.parent
    ended = subprocess.run(arguments, cwd=tests, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    print(f"{name}: {found['points']} points")
    assert found["points"] >= 6
    assert found["wrong"] == []
