"""A model, the parts that it falls into, and what was captured of it: the two sides of `check A B`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from graphsurgery.debugging.compare_paths import compare_paths
from graphsurgery.devices import session
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.gate.verdicts import Verdict
from graphsurgery.graph.model import Model
from graphsurgery.images.canvas import Canvas
from graphsurgery.parts.describe import describe_parts
from graphsurgery.parts.manifest import FILE_NAME
from graphsurgery.parts.part import Part
from graphsurgery.report.run_record import Step
from graphsurgery.rewrite import BATCH_NOTE
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'

WHOLE = f"""
    {HEAD}
    g (float[N, 4] x) => (float[N, 4] y, float[N] s) {{
        h = Relu (x)
        y = Exp (h)
        s = ReduceSum <keepdims = 0> (h, axes)
    }}"""

FRONT = f"""
    {HEAD}
    g (float[N, 4] x) => (float[N, 4] h) {{ h = Relu (x) }}"""

BACK = f"""
    {HEAD}
    g (float[3, 4] h) => (float[3, 4] y, float[3] s) {{
        y = Exp (h)
        s = ReduceSum <keepdims = 0> (h, axes)
    }}"""
AXES = onnx.numpy_helper.from_array(np.array([1]), "axes")
CANVAS = Canvas(2, 2)


class Watched:
    """Notes what a watcher is told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.progress: list[tuple[int, int]] = []

    def begin(self, what: str) -> None:
        self.begun.append(what)

    def advance(self, done: int, total: int) -> None:
        self.progress.append((done, total))

    def finished(self, step: Step) -> None:
        raise AssertionError(f"no step is run here: {step}")


def check(a: Path, b: Path, inputs: Path | None = None, tolerances: Tolerances | None = None) -> Verdict:
    return compare_paths(a, b, inputs, tolerances or Tolerances(), Watched())


def model(text: str, note: Mapping[str, object] | None = None) -> Model:
    proto = parse(text)
    if "axes" in text:
        proto.graph.initializer.append(AXES)
    if note is not None:
        proto.metadata_props.add(key=BATCH_NOTE, value=json.dumps(note))
    return Model(proto)


def write(path: Path, text: str, note: Mapping[str, object] | None = None) -> Path:
    model(text, note).save(path)
    return path


def write_parts(folder: Path, front: str = FRONT, back: str = BACK) -> Path:
    parts = [
        Part("front", "npu", True, model(front)),
        Part("back", "cpu", False, model(back, {"size": 3})),
    ]
    for part in parts:
        part.model.save(folder / f"{part.name}.onnx")
    manifest = describe_parts(parts, "test", {"kind": "test"}, CANVAS, ["x"], ["y", "s"])
    (folder / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return folder


def write_capture(folder: Path, samples: Mapping[str, Mapping[str, np.ndarray]]) -> Path:
    for name, tensors in samples.items():
        (folder / name).mkdir(parents=True)
        for tensor, value in tensors.items():
            np.save(folder / name / f"{tensor}.npy", value)
    index = {
        "format": 1,
        "source": {"kind": "test"},
        "canvas": CANVAS.to_json(),
        "samples": [{"id": name, "file": None, "height": 2, "width": 2} for name in samples],
    }
    (folder / "capture.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def tensors_of(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    x = np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)
    computed = session.run(model(WHOLE).proto, {"x": x})
    return {"x": x, "h": np.maximum(x, 0), **computed}
