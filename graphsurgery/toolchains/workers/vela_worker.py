"""Plays TFLite files that `vela_compile` wrote, as many as it is asked for, by TensorFlow's kernels for integers.

{"do": "open", "key": K, "folder": F, "name": PART}                       -> {}
{"do": "infer", "key": K, "inputs": [X.npy, ...], "outputs": F}           -> {"outputs": [0.npy, ...]}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import vela_compile
from serving import Refused, serve

_open: dict[str, Any] = {}


def load() -> None:
    """Import TensorFlow, whose interpreter plays them."""
    import tensorflow  # noqa: F401


def open_(request: dict[str, Any]) -> dict[str, Any]:
    """Load a file, and what is known of its inputs and outputs."""
    folder, name = Path(request["folder"]), request["name"]
    try:
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        tensors = json.loads((folder / "tensors.json").read_text(encoding="utf-8"))
        orders = [tensors[each]["axes"] for each in job["outputs"]]
        model = vela_compile.interpreter(str(folder / f"{name}.tflite"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"what was compiled can't be read ({error}); compile again") from error
    _open[request["key"]] = model, list(job["inputs"]), orders
    return {}


def infer(request: dict[str, Any]) -> dict[str, Any]:
    """Play a file that was opened, on one run."""
    import numpy as np

    model, names, orders = _open[request["key"]]
    runs = [np.load(path)[None] for path in request["inputs"]]
    found, _ = vela_compile.run_signature(model, names, runs, 0)
    written = []
    for index, order in enumerate(orders):
        written.append(f"{index}.npy")
        np.save(Path(request["outputs"]) / written[-1], found[f"output_{index}"].transpose(order))
    return {"outputs": written}


if __name__ == "__main__":
    serve(load, {"open": open_, "infer": infer})
