"""What a run leaves in its output folder, one that ends in the middle too."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import PARTS, Applied, Cli, Snapshot

from cli.children import child_environment, copied

# --- interrupted, and out of space ------------------------------------------------------------------------------


def writing(child: psutil.Process, root: Path) -> bool:
    return any((root / "parts").glob(".graphsurgery-*/new"))


def simplifying(child: psutil.Process, root: Path) -> bool:
    return any("graphsurgery.processes.onnxsim_process" in worker.cmdline() for worker in child.children())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("stage", [writing, simplifying])
def test_an_interrupted_run_leaves_nothing_behind(
    snapshot: Snapshot, detector: Applied, tmp_path: Path, stage: Callable[[psutil.Process, Path], bool]
) -> None:
    copied(detector, tmp_path)
    (tmp_path / "temporary").mkdir()
    before = snapshot(tmp_path)
    arguments = ("detector.yaml", "--out", "parts", "--model-io", "model_io", "--set", "passes=[simplify]")
    child = subprocess.Popen(
        [sys.executable, "-m", "graphsurgery", "apply", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=child_environment() | {"TMPDIR": str(tmp_path / "temporary")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    watched = psutil.Process(child.pid)
    deadline = time.monotonic() + 60
    while not stage(watched, tmp_path):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = watched.children(recursive=True)
    child.send_signal(signal.SIGINT)
    _, complaints = child.communicate(timeout=60)
    assert child.returncode == 130
    assert complaints.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in complaints
    assert snapshot(tmp_path) == before
    assert psutil.wait_procs(workers, timeout=10)[1] == []


@pytest.mark.parametrize("file", ["backbone_rpn.onnx", "manifest.json", "run.json"])
def test_a_full_disk_is_one_line_and_the_old_parts_stay(
    cli: Cli, snapshot: Snapshot, detector: Applied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    copied(detector, tmp_path)
    before = snapshot(tmp_path)
    for method in ("write_bytes", "write_text"):
        monkeypatch.setattr(Path, method, full(getattr(Path, method), file))
    outcome = cli(
        *("apply", tmp_path / "detector.yaml", "--out", tmp_path / "parts", "--model-io", tmp_path / "model_io"),
        "--no-check",
    )
    assert outcome.code == 2
    assert "No space left on device" in outcome.last_line
    assert file in outcome.last_line
    assert "Traceback" not in outcome.err
    assert snapshot(tmp_path) == before


def full(write: Callable[..., int], file: str) -> Callable[..., int]:
    def fails(path: Path, *arguments: object, **options: object) -> int:
        if path.name == file or (path.name.startswith(".graphsurgery-") and path.suffix == Path(file).suffix):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, *arguments, **options)

    return fails


# --- the output folder ------------------------------------------------------------------------------------------


def test_the_users_own_files_stay_in_the_output_folder(cli: Cli, detector: Applied, tmp_path: Path) -> None:
    copied(detector, tmp_path)
    (tmp_path / "parts" / "notes.txt").write_text("mine", encoding="utf-8")
    outcome = cli("apply", tmp_path / "detector.yaml", "--out", tmp_path / "parts", "--model-io", tmp_path / "model_io")
    assert outcome.code == 0, outcome.err
    names = {path.name for path in (tmp_path / "parts").iterdir()}
    assert names == {*(f"{name}.onnx" for name in PARTS), "manifest.json", "run.json", "report.html", "notes.txt"}


def test_the_working_directory_can_be_the_output_folder(
    cli: Cli, detector: Applied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(detector, tmp_path)
    monkeypatch.chdir(tmp_path / "parts")
    outcome = cli("apply", tmp_path / "detector.yaml", "--out", ".", "--model-io", tmp_path / "model_io")
    monkeypatch.chdir(tmp_path)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "parts" / "run.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detector.onnx", "detector.yaml", "model_io", "parts"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there, and no folder in use can be moved")
def test_a_link_to_the_output_folder_stays_a_link(cli: Cli, detector: Applied, tmp_path: Path) -> None:
    copied(detector, tmp_path)
    (tmp_path / "link").symlink_to("parts", target_is_directory=True)
    outcome = cli("apply", tmp_path / "detector.yaml", "--out", tmp_path / "link", "--model-io", tmp_path / "model_io")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "link").is_symlink()
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())
