"""Ends a process together with those that it has started: a vendor's tool is often a script that calls another.

And says what it printed last.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from graphsurgery.text import shortened, visible


def end_tree(pid: int) -> None:
    """Kill a process and all that it has started, as far as they are still its children."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        found = [*process.children(recursive=True), process]
        for each in found:
            with contextlib.suppress(psutil.Error):
                each.kill()
        psutil.wait_procs(found, timeout=5)


def run_to_end(
    command: Sequence[str], seconds: float, output: BinaryIO, folder: Path, environment: Mapping[str, str] | None = None
) -> int | None:
    """Run a command in `folder` and return its exit code; None where it was ended after so many seconds.

    What it prints goes to `output`. Whatever is raised here meanwhile, it is ended, and so is what it has started.
    Raises OSError where it can't be started.
    """
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(list(command), cwd=folder, env=environment and dict(environment), **options)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            end_tree(process.pid)
            process.wait()


def last_line(log: Path) -> str:
    """Return the last line of what a process printed into a file; nothing where that is empty or can't be read."""
    try:
        with log.open("rb") as file:
            with contextlib.suppress(OSError):
                file.seek(-4096, os.SEEK_END)
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return shortened(visible(said[-1]), 200) if said else ""
