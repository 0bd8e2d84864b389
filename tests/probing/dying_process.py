"""Stands for a process of trials whose compiler dies of MaxPool, hangs at Relu, and leaves Sigmoid to the CPU."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from graphsurgery.devices.session import Session
from graphsurgery.processes.worker import serve


def answer(request: dict[str, Any]) -> dict[str, Any]:
    folder = Path(request["folder"])
    proto = ModelProto.FromString((folder / "model.onnx").read_bytes())
    op = proto.graph.node[0].op_type
    if op == "MaxPool":
        os._exit(134)
    if op == "Relu":
        time.sleep(60)
    told: dict[str, Any] = {"others": [], "error": None, "loaded": True, "reasons": {}}
    if op == "Softmax":
        return told | {"ran": {}, "error": "Failed to compose the graph of QNNExecutionProvider_12_3", "loaded": False}
    if op == "Sigmoid":
        return told | {"ran": {"0": "cpu"}, "reasons": {"0": "no Sigmoid here"}}
    with np.load(folder / "feeds.npz") as stored:
        outputs = Session(proto).run(dict(stored))
    if op == "Neg":
        outputs = {name: -value for name, value in outputs.items()}
    np.savez(folder / "outputs.npz", **outputs)
    return told | {"ran": {"0": "qnn"}}


if __name__ == "__main__":
    serve(lambda: None, answer)
