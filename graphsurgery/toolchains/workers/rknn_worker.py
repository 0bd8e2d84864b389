"""Builds models with Rockchip's RKNN-Toolkit2 and plays them in its simulator, as many as it is asked for, in turn.

    {"do": "build", "key": K, "folder": F, "model": ..., "config": ..., "quantize": ..., "dataset": ...}   -> {}
    {"do": "infer", "key": K, "inputs": [X.npy, ...], "outputs": F}                      -> {"outputs": [0.npy, ...]}
    {"do": "many", "jobs": [{"folder": ..., ..., "log": FILE, "inputs": [...], "outputs": F}, ...]}
                                                        -> {"results": [{"outputs": [...]}, {"error": TEXT}, ...]}

A build is as `rknn_build` has it. The simulator takes what was built in this process and no .rknn file, so a model is
kept under its `key`; those of `many` are let go of at once, and with samples in place of a dataset: {"samples":
[[X.npy, ...], ...]}. Without `inputs` a job is only built.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import rknn_build
from serving import Refused, print_to, serve

_built: dict[str, Any] = {}


def load() -> None:
    """Import the toolkit, and stand where it may leave files."""
    import rknn.api  # noqa: F401

    os.chdir(tempfile.mkdtemp())


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Build a model and keep it."""
    old = _built.pop(request["key"], None)
    if old is not None:
        old.release()
    _built[request["key"]] = _ready(request)
    return {}


def infer(request: dict[str, Any]) -> dict[str, Any]:
    """Play a model that was built."""
    return {"outputs": _played(_built[request["key"]], request)}


def many(request: dict[str, Any]) -> dict[str, Any]:
    """Build and play models one after another; what one of them does wrong is its own result."""
    results: list[dict[str, Any]] = []
    for job in request["jobs"]:
        print_to(job.get("log") or os.devnull)
        try:
            rknn = _ready(job)
            try:
                results.append({"outputs": _played(rknn, job) if job.get("inputs") else []})
            finally:
                rknn.release()
        except Exception as error:
            results.append({"error": str(error) if isinstance(error, Refused) else rknn_build.cause(error)})
    return {"results": results}


def _ready(job: dict[str, Any]) -> Any:
    """Build a model, so that the simulator takes it."""
    wanted = dict(job)
    if job.get("samples"):
        listed = Path("dataset.txt").resolve()
        listed.write_text("".join(" ".join(files) + "\n" for files in job["samples"]), encoding="utf-8")
        wanted["dataset"] = str(listed)
    try:
        rknn = rknn_build.build(Path(job["folder"]), wanted)
    except Exception as error:
        raise Refused(rknn_build.cause(error)) from error
    if rknn.init_runtime() != 0:
        rknn.release()
        raise Refused("the simulator doesn't take the model")
    return rknn


def _played(rknn: Any, request: dict[str, Any]) -> list[str]:
    import numpy as np

    inputs = [np.load(path) for path in request["inputs"]]
    # its images are [N, H, W, C] unless it is told; other ranks have no layout
    found = rknn.inference(inputs=inputs, data_format=["nchw"] * len(inputs))
    if found is None:
        raise Refused("the simulator gives no results")
    place, names = Path(request["outputs"]), []
    for number, values in enumerate(found):
        names.append(f"{number}.npy")
        np.save(place / names[-1], values)
    return names


if __name__ == "__main__":
    try:
        serve(load, {"build": build, "infer": infer, "many": many})
    finally:
        shutil.rmtree(Path.cwd(), ignore_errors=True)
