"""A signal ends a command as Ctrl-C does: nothing is left of what it was writing, here and among temporary files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Snapshot
from files.kill_points import write_model

PLUGIN = """
import time
from pathlib import Path
from graphsurgery.files.temporary import temporary_folder
from graphsurgery.rewrite import GraphPass

class Dawdle(GraphPass):
    name = "dawdle"
    effect = "exact"

    def rewrite(self, graph, edit):
        with temporary_folder():
            Path("begun").touch()
            time.sleep(60)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_model()
    (tmp_path / "dawdle.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "temporary").mkdir()
    return tmp_path


def begun(place: Path, *before: str) -> subprocess.Popen[str]:
    """Start an `apply` that has captured, and sleeps in a pass."""
    arguments = ("new.yaml", "--plugin", "dawdle.py", "--set", "passes=[dawdle]", "--out", "parts", "--model-io", "io")
    root = str(Path(__file__).parent.parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    child = subprocess.Popen(
        [*before, sys.executable, "-m", "graphsurgery", "apply", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "TMPDIR": str(place / "temporary"), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: [signal.signal(s, signal.SIG_DFL) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
    )
    deadline = time.monotonic() + 120
    while not (place / "begun").exists():
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (place / "begun").unlink()
    return child


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals for one process")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_a_command_as_ctrl_c_does(place: Path, snapshot: Snapshot, name: str, code: int) -> None:
    before = set(snapshot(place))
    child = begun(place)
    assert set(snapshot(place)) - before >= {"parts"}
    assert len(list((place / "temporary").iterdir())) == 2
    child.send_signal(signal.Signals[name])
    _, said = child.communicate(timeout=60)
    assert (child.returncode, said) == (code, "interrupted; no output is half written\n")
    left = {path for path in set(snapshot(place)) - before if not path.startswith("io")}
    assert left == set()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no nohup")
def test_nohup_still_works(place: Path) -> None:
    child = begun(place, "nohup")
    child.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=1)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == 143
