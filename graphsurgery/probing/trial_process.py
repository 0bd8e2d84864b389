"""The process in which one-node models are compiled and played, since a compiler may take its process with it.

A request names a folder in which `model.onnx` and `feeds.npz` lie, and the provider with its options; `outputs.npz` is
put beside them. What the provider says goes to standard error, which is a file that is emptied before.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from graphsurgery.devices.placement import reasons_in
from graphsurgery.devices.providers import DeviceChoice
from graphsurgery.devices.trial import load, try_model
from graphsurgery.errors import MissingTool
from graphsurgery.processes.worker import serve

LOG = "stderr.txt"


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Compile and play the model in the folder; whatever goes wrong is the answer."""
    folder = Path(request["folder"])
    os.ftruncate(2, 0)
    os.lseek(2, 0, os.SEEK_SET)
    proto = ModelProto.FromString((folder / "model.onnx").read_bytes())
    with np.load(folder / "feeds.npz") as stored:
        feeds = dict(stored)
    try:
        found = try_model(proto, feeds, DeviceChoice(request["provider"], request["options"]))
    except MissingTool as error:
        return {"missing_tool": str(error)}
    np.savez(folder / "outputs.npz", **found.outputs)  # type: ignore[arg-type]
    log = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    told = {"ran": found.ran, "others": sorted(found.others), "error": found.error, "loaded": found.loaded}
    return told | {"reasons": reasons_in(log)}


if __name__ == "__main__":
    serve(load, answer)
