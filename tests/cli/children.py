"""The command line in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import Applied, Outcome


def process(*arguments: object, cwd: Path | None = None, **environment: str) -> Outcome:
    """Run the command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "graphsurgery", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        env=child_environment(**environment),
        timeout=120,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def child_environment(**more: str) -> dict[str, str]:
    root = str(Path(__file__).parent.parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**inherited, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **more}


def copied(detector: Applied, root: Path) -> None:
    """Put the recipe, its captured tensors and a finished run where a test may end in the middle."""
    for file in ("detector.yaml", "detector.onnx"):
        shutil.copy(detector.folder.parent / file, root)
    shutil.copytree(detector.folder, root / "parts")
    shutil.copytree(detector.model_io, root / "model_io")
