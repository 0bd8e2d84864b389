"""Parts that are one model again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from graphsurgery.devices import session
from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import BATCH_NOTE
from graphsurgery.images.canvas import Canvas
from graphsurgery.parts.describe import describe_parts
from graphsurgery.parts.manifest import Manifest
from graphsurgery.parts.part import Part
from graphsurgery.parts.whole import whole_of
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
# Both have an inner tensor and an initializer of the same names, and the second reads the image too
FIRST = """g (float[1, 3, 4, 6] x) => (float[N, 2] rows) <float[1] w = {2}, int64[2] two = {-1, 2}> {
    z = Mul (x, w)
    rows = Reshape (z, two)
}"""
SECOND = """g (float[M, 2] rows, float[1, 3, 4, 6] x) => (float[K] y, float[] top)
<float[1] w = {3}, int64[1] axis = {1}> {
    z = Mul (rows, w)
    sums = ReduceSum <keepdims = 0> (z, axis)
    y = Relu (sums)
    top = ReduceMax <keepdims = 0> (x)
}"""


def parts(*texts: str) -> tuple[Manifest, dict[str, Model]]:
    made = [Part(f"part{index}", "cpu", False, Model(parse(f"{HEAD} {text}"))) for index, text in enumerate(texts)]
    return described(made)


def described(made: Sequence[Part]) -> tuple[Manifest, dict[str, Model]]:
    manifest = describe_parts(list(made), "two", {}, Canvas(4, 6), ["x"], ["top", "y"])
    return manifest, {part.name: part.model for part in made}


def test_the_whole_computes_what_the_parts_do_and_keeps_the_names_of_its_ends() -> None:
    manifest, models = parts(FIRST, SECOND)
    whole = whole_of(manifest, models)
    onnx.checker.check_model(whole.proto, full_check=True)
    assert list(whole.inputs) == ["x"]
    assert list(whole.outputs) == ["top", "y"]
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 6)).astype(np.float32)
    rows = session.run(models["part0"].proto, {"x": x}, name="first")["rows"]
    wanted = session.run(models["part1"].proto, {"rows": rows, "x": x}, name="second")
    found = session.run(whole.proto, {"x": x}, name="whole")
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)
    assert np.any(wanted["y"] > 0)


def test_a_frozen_batch_is_refused() -> None:
    _, models = parts(FIRST, SECOND)
    models["part1"].proto.metadata_props.add(key=BATCH_NOTE, value='{"size": 12, "parameters": ["x"]}')
    manifest, models = described([Part(name, "cpu", False, model) for name, model in models.items()])
    with pytest.raises(InputError, match="part 'part1' has a frozen batch of 12 rows, which only"):
        whole_of(manifest, models)


def test_parts_of_two_operator_sets_are_refused() -> None:
    _, models = parts(FIRST, SECOND)
    models["part1"].proto.opset_import[0].version = 16
    manifest, models = described([Part(name, "cpu", False, model) for name, model in models.items()])
    with pytest.raises(InputError, match="'part0' and 'part1' have operator sets 17 and 16, and one model has one"):
        whole_of(manifest, models)
