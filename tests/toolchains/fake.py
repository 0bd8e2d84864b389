"""A toolchain that needs no network: its one package is a wheel made here, which pip finds in a folder."""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from graphsurgery.toolchains import Toolchain, toolchain
from graphsurgery.toolchains.toolchain import here, load_toolchain

YAML = """\
title: A small tool
package: {package}
locks: [tool.lock]
imports: [{module}]
pythons: ["{python}"]
platforms: [{platform}]
licence: nobody's
"""


def write_wheel(folder: Path, name: str, version: str, code: str) -> None:
    """Write a wheel with one module of that name."""
    info = f"{name}-{version}.dist-info"
    contents = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }

    def hashed(text: str) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()

    record = [f"{path},sha256={hashed(text)},{len(text.encode())}" for path, text in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in contents.items():
            wheel.writestr(path, text)


def write_toolchain(folder: Path, name: str = "tool", version: str = "1.2", **changed: str) -> Toolchain:
    """Write NAME.yaml and its lock file into a folder."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    values = {"package": "smalltool", "module": "smalltool", "python": python, "platform": here(), **changed}
    (folder / f"{name}.yaml").write_text(YAML.format(**values), encoding="utf-8")
    (folder / "tool.lock").write_text(f"# pins\nsmalltool=={version}\n", encoding="utf-8")
    return load_toolchain(folder / f"{name}.yaml")


def add_toolchain(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the toolchains of a folder found, as if another package had named it."""
    monkeypatch.setattr(toolchain, "entry_points_of", lambda group: iter([folder]))
