"""Cuts small models and plays their parts, for the tests of this room."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.partition.boundaries import Cut
from graphsurgery.partition.by_target import ByTarget
from graphsurgery.partition.cut import find_cut
from graphsurgery.partition.named_parts import extract_parts
from graphsurgery.partition.stages import CutPoints
from graphsurgery.parts.part import Part
from graphsurgery.rewrite import Editor
from graphsurgery.testing import parse, random_inputs

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
POOL = "<output_height = 2, output_width = 2, spatial_scale = 1.0>"
# a detector of two stages, its weights, and two regions of an image
TWO_STAGE = f"""
    detector (float[1, 3, 8, 8] image, float[n, 4] rois, int64[n] batch) => (float[n, 5] scores) {{
        f = Conv <pads = [1, 1, 1, 1]> (image, w1)
        features = Relu (f)
        pooled = RoiAlign {POOL} (features, rois, batch)
        flat = Flatten (pooled)
        hidden = Gemm <transB = 1> (flat, w2)
        active = Relu (hidden)
        logits = Gemm <transB = 1> (active, w3)
        scores = Softmax (logits)
    }}"""
WEIGHTS = {"w1": [4, 3, 3, 3], "w2": [6, 16], "w3": [5, 6]}
BOXES = {"rois": np.array([[0, 0, 4, 4], [1, 1, 7, 6]], np.float32), "batch": np.zeros(2, np.int64)}


def cut_of(
    text: str | ModelProto,
    include: Sequence[Sequence[str]] = (),
    weights: Mapping[str, list[int]] | None = None,
    at: str | CutPoints | ByTarget = "RoiAlign",
    supported: Sequence[str] = (),
) -> Cut:
    """Cut a model given as text; `weights` are random initializers by name and shape."""
    graph = with_weights(text, weights).graph()
    Editor(graph).infer_shapes()
    return find_cut(graph, at, include, supported)


def with_weights(text: str | ModelProto, weights: Mapping[str, list[int]] | None = None) -> Model:
    """Return a model given as text, with random weights."""
    proto = parse(f"{HEAD}\n{text}") if isinstance(text, str) else text
    generator = np.random.default_rng(0)
    for name, shape in (weights or {}).items():
        values = generator.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return Model(proto)


def described(cut: Cut) -> list[str]:
    """One line for each part: kind, what goes in, what comes out."""
    lines = []
    for kind, inputs, outputs in zip(cut.accelerator, cut.inputs, cut.outputs, strict=True):
        ends = [",".join(sorted(tensor.name for tensor in end)) for end in (inputs, outputs)]
        lines.append(f"{'accelerator' if kind else 'host'}: {ends[0]} -> {ends[1]}")
    return lines


def parts_of(cut: Cut) -> list[Part]:
    return extract_parts(cut, {f"part{i}": "npu" if kind else "cpu" for i, kind in enumerate(cut.accelerator)})


def play(parts: Sequence[Part], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    tensors = dict(inputs)
    for part in parts:
        names = [info.name for info in part.model.proto.graph.input]
        tensors |= session.run(part.model.proto, {name: tensors[name] for name in names}, name=part.name)
    return tensors


def assert_parts_give_what_the_whole_gives(cut: Cut, inputs: Mapping[str, np.ndarray] | None = None) -> None:
    whole = Model.of(cut.graph).proto
    given = dict(inputs) if inputs is not None else random_inputs(whole)
    parts = parts_of(cut)
    for part in parts:
        onnx.checker.check_model(part.model.proto, full_check=True)
    played = play(parts, given)
    for name, value in session.run(whole, given).items():
        np.testing.assert_array_equal(played[name], value, err_msg=name)
