"""Builds a model with Rockchip's RKNN-Toolkit2 by build.json beside this file, which is build.py of what is compiled.

    {"model": "head.onnx", "config": {"target_platform": "rk3588", ...}, "quantize": true, "dataset": "dataset.txt",
     "rknn": "head.rknn"}

`config` are the arguments of RKNN.config. Paths are those from the file's folder on; `dataset` lists a sample a line,
the files of its inputs with spaces between. What the toolkit says, its table of layers too, goes to standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def build(folder: Path, wanted: Mapping[str, Any]) -> Any:
    """Return the built model in memory. Raises RuntimeError or what the toolkit raises."""
    from rknn.api import RKNN

    rknn = RKNN(verbose=True)
    try:
        _did("config", rknn.config(**wanted["config"]))
        _did("load_onnx", rknn.load_onnx(model=str(folder / wanted["model"])))
        dataset = str(folder / wanted["dataset"]) if wanted["quantize"] else None
        _did("build", rknn.build(do_quantization=wanted["quantize"], dataset=dataset))
        if wanted.get("rknn"):
            _did("export_rknn", rknn.export_rknn(str(folder / wanted["rknn"])))
    except BaseException:
        rknn.release()
        raise
    return rknn


def cause(error: BaseException) -> str:
    """Return what an error of the toolkit comes to: its message is a traceback, the cause at the end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("File ", "Traceback", "^", "I ", "W ", "\x1b"))]
    return (said or lines or [type(error).__name__])[-1][:300]


@contextlib.contextmanager
def elsewhere() -> Any:
    """Stand in a folder that vanishes: the toolkit leaves check0_base_optimize.onnx and others where it stands."""
    before = os.getcwd()  # noqa: PTH109
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        try:
            yield
        finally:
            os.chdir(before)


def _did(step: str, code: object) -> None:
    if code != 0:
        raise RuntimeError(f"{step} returns {code}")


def main() -> None:
    """Build, and end with 1 and the cause as the last line where that fails."""
    folder = Path(__file__).resolve().parent
    wanted = json.loads((folder / "build.json").read_text(encoding="utf-8"))
    try:
        with elsewhere():
            build(folder, wanted).release()
    except BaseException as error:
        sys.stdout.flush()
        print(cause(error), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
