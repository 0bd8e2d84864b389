"""Builds a model with Rockchip's RKNN-Toolkit2 by build.json beside this file, which is build.py of what is compiled.

    {"model": "head.onnx", "config": {"target_platform": "rk3588", ...}, "quantize": true, "rknn": "head.rknn"}

`config` are the arguments of RKNN.config. Paths are those from the file's folder on. Ranges of int8 are taken from the
runs in calibration/J.npy, of input J; what the simulator computes of them goes to computed/J.npy, of output J. What the
toolkit says, its table of layers too, goes to standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Failed(RuntimeError):
    """A step of the toolkit returned a code."""


def build(folder: Path, wanted: Mapping[str, Any]) -> Any:
    """Return the built model in memory; files are left where this process stands. Raises what the toolkit raises."""
    from rknn.api import RKNN

    rknn = RKNN(verbose=True)
    try:
        _did("config", rknn.config(**wanted["config"]))
        _did("load_onnx", rknn.load_onnx(model=str(folder / wanted["model"])))
        dataset = _dataset(wanted.get("samples") or runs_in(folder)) if wanted["quantize"] else None
        _did("build", rknn.build(do_quantization=wanted["quantize"], dataset=dataset))
        if wanted.get("rknn"):
            _did("export_rknn", rknn.export_rknn(str(folder / wanted["rknn"])))
    except BaseException:
        rknn.release()
        raise
    return rknn


def runs_in(folder: Path) -> list[list[Any]]:
    """Return what the part reads in each run, input by input; nothing where there is no calibration."""
    import numpy as np

    files = sorted((folder / "calibration").glob("*.npy"), key=lambda file: int(file.stem))
    inputs = [np.load(file, mmap_mode="r") for file in files]
    return [[each[number] for each in inputs] for number in range(len(inputs[0]))] if inputs else []


def play(rknn: Any, inputs: list[Any]) -> list[Any]:
    """Return what the simulator computes. Raises RuntimeError where that is nothing."""
    import numpy as np

    # its images are [N, H, W, C] unless it is told; other ranks have no layout
    found = rknn.inference(inputs=[np.asarray(each) for each in inputs], data_format=["nchw"] * len(inputs))
    if found is None:
        raise RuntimeError("the simulator gives no results")
    return list(found)


def _dataset(samples: list[list[Any]]) -> str:
    """Write samples, arrays or the names of files of them, here, and return the list of them.

    The list knows no quotes, and so files get names without spaces.
    """
    import numpy as np

    lines = []
    for number, sample in enumerate(samples):
        files = [f"sample_{number}_{index}.npy" for index in range(len(sample))]
        for file, values in zip(files, sample):  # noqa: B905  it runs in older Pythons, too
            np.save(file, np.load(values) if isinstance(values, str) else values)
        lines.append(" ".join(files))
    Path("dataset.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(Path("dataset.txt").resolve())


def _compute(rknn: Any, folder: Path) -> None:
    """Play the runs and keep what comes out, in the shapes of ONNX Runtime's, which lie in first/J.npy."""
    import numpy as np

    runs = runs_in(folder)
    if not runs:
        return
    _did("init_runtime", rknn.init_runtime())
    (folder / "computed").mkdir(exist_ok=True)
    computed: list[Any] = []
    for number, inputs in enumerate(runs):
        for index, values in enumerate(play(rknn, inputs)):
            if not number:
                like = np.load(folder / "first" / f"{index}.npy")
                shape = (len(runs), *like.shape)
                file = folder / "computed" / f"{index}.npy"
                computed.append(np.lib.format.open_memmap(file, mode="w+", dtype=like.dtype, shape=shape))
            computed[index][number] = values.reshape(computed[index].shape[1:])  # a Reshape may be taken off
    for each in computed:
        each.flush()


def cause(error: BaseException, log: str | None = None) -> str:
    """Return what an error of the toolkit comes to: its message is a traceback, the cause at the end.

    A step may only return a code, and say why in the log.
    """
    if isinstance(error, Failed) and log is not None:
        sys.stdout.flush()
        text = re.sub(r"\x1b\[[0-9;]*m", "", Path(log).read_text(encoding="utf-8", errors="replace"))
        said = [line[2:].strip() for line in text.splitlines() if line.startswith("E ")]
        return f"{error}: {said[-1]}"[:300] if said else str(error)
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
        raise Failed(f"{step} returns {code}")


def main() -> None:
    """Build, and end with 1 and the cause as the last line where that fails; the log is argument 1, if there is one."""
    folder = Path(__file__).resolve().parent
    wanted = json.loads((folder / "build.json").read_text(encoding="utf-8"))
    try:
        with elsewhere():
            rknn = build(folder, wanted)
            _compute(rknn, folder)
            rknn.release()
    except BaseException as error:
        sys.stdout.flush()
        print(cause(error, sys.argv[1] if len(sys.argv) > 1 else None), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
