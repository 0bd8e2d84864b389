"""Takes small models through onnx2tf and Vela, and plays them by TensorFlow's kernels, as many as it is asked for.

    {"do": "try", "folder": F, "inputs": ["x0", ...], "outputs": ["y0", ...], "precision": "int8", "vela": [...],
     "log": FILE}
                -> {"operators": [TYPE, ...], "left": [TYPE, ...], "outputs": [0.npy, ...]}

F holds model.onnx, calibration/J.npy and first/J.npy, as those of a part (`vela_compile`), of one run. `operators` are
those of the TFLite file before Vela, `left` those that Vela leaves to the CPU. All happens in this process: importing
TensorFlow takes a hundred times as long as a small model. Where Vela aborts, the process goes with it.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import vela_compile
from serving import Refused, serve

_NAME = "model"
_ERROR = re.compile(r"(\x1b\[\d+m)?ERROR:(\x1b\[0m)?")  # as onnx2tf writes it, in red


def load() -> None:
    """Import the tools, which the first request should not wait for."""
    import ethosu.vela.vela  # noqa: F401
    import onnx2tf.onnx2tf  # noqa: F401
    import tensorflow  # noqa: F401


def try_(request: dict[str, Any]) -> dict[str, Any]:
    """Convert, compile and play one model."""
    os.chdir(request["folder"])
    job = {**request, "file": f"{_NAME}.onnx", "runs": 1}
    try:
        vela_compile.convert(job, _NAME)
    except (Exception, SystemExit) as error:  # onnx2tf ends the process over what it doesn't know
        raise Refused(f"onnx2tf: {cause(error, request['log'])}") from error
    operators = [each["operator"] for each in vela_compile.operators(f"{_NAME}.tflite")]
    left = placed(request["vela"]) if operators else []
    try:
        return {"operators": operators, "left": left, "outputs": played(job)}
    except (Exception, SystemExit) as error:
        raise Refused(f"TensorFlow's kernels: {cause(error, request['log'])}") from error


def placed(options: list[str]) -> list[str]:
    """Return the operators that Vela leaves to the CPU."""
    from ethosu.vela import vela

    try:
        code = vela.main([f"{_NAME}.tflite", "--output-dir", "vela", *options])
    except (Exception, SystemExit) as error:
        raise Refused(f"Vela: {cause(error)}") from error
    made = Path("vela", f"{_NAME}_vela.tflite")
    if code or not made.is_file():
        raise Refused(f"Vela ends with {code}")
    return [each["operator"] for each in vela_compile.operators(str(made)) if each["operator"] != "ethos-u"]


def played(job: dict[str, Any]) -> list[str]:
    """Play the TFLite file on the only run, and return the files of what it computes.

    Its axes are in ONNX's order, if there is one that gives ONNX's shape.
    """
    import numpy as np

    runs = [np.load(f"calibration/{index}.npy") for index in range(len(job["inputs"]))]
    model = vela_compile.interpreter(f"{_NAME}.tflite")
    found, _ = vela_compile.run_signature(model, job["inputs"], runs, 0)
    written = []
    for index, name in enumerate(job["outputs"]):
        values = found[f"output_{index}"]
        try:
            values = values.transpose(vela_compile.order_of(np.load(f"first/{index}.npy"), values, name))
        except SystemExit as error:  # it has another shape, which is a result, too
            print(error)
        written.append(f"{index}.npy")
        np.save(written[-1], values)
    return written


def cause(error: BaseException, log: str | None = None) -> str:
    """Return the line of an error that says most: TensorFlow writes many, and onnx2tf logs one and calls exit()."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = [line for line in lines if line.startswith("TF Select ops:")]
    if missing:
        return f"TensorFlow Lite has no {missing[0].partition(': ')[2]}"
    if isinstance(error, SystemExit) and log is not None:
        sys.stdout.flush()
        logged = Path(log).read_text(encoding="utf-8", errors="replace").splitlines()
        said = [_ERROR.sub("", line).strip() for line in logged if _ERROR.match(line)]
        if said:
            return said[0]
    return f"{type(error).__name__}: {lines[0] if lines else 'it says nothing'}"


if __name__ == "__main__":
    serve(load, {"try": try_})
