"""Which machine and versions a run had, for run.json and the report's end."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from graphsurgery.version import __version__

_PACKAGES = (
    *("onnx", "onnxruntime", "onnx-graphsurgeon", "onnxsim", "numpy", "torch", "torchvision", "pycocotools"),
    *("onnxruntime-qnn", "amd-quark", "vai_q_onnx"),
)


def describe() -> dict[str, Any]:
    """Return the time, the machine and the versions of what can change a result; what is not installed is left out."""
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": _versions(),
    }


@functools.cache  # a run asks each time that it writes its record
def _versions() -> Mapping[str, str]:
    found = {"graphsurgery": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """Return the processor's name; Linux has it in a file, where Python's own answer is often empty."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor()
