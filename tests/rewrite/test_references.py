"""Passes on a model whose weights lie in another file: they stay there unless a pass changes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from weights_outside import written

from graphsurgery.graph import outside
from graphsurgery.graph.model import Model
from graphsurgery.passes.drop_identity import DropIdentity
from graphsurgery.passes.simplify import Simplify
from graphsurgery.rewrite import Editor, ModelPass, apply_pass

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,3,8,8] x) => (float[1,90,8,8] z) <float[1] a = {0}, float[1] b = {0}> {
    h = Conv <pads = [1, 1, 1, 1]> (x, a)
    i = Identity(h)
    r = Relu(i)
    z = Conv(r, b)
}"""


@pytest.fixture
def model(tmp_path: Path) -> Model:
    path = written(tmp_path / "m.onnx", TEXT, {"a": (900, 3, 3, 3), "b": (90, 900, 1, 1)})
    return Model.load(path).bound()


def referred(model: Model) -> list[str]:
    return [tensor.name for tensor in model.proto.graph.initializer if outside.is_bound(tensor)]


@dataclass(frozen=True)
class ScaleOne(ModelPass):
    """A tool that knows nothing of references."""

    name = "scale-one"
    effect = "exact"

    def rewrite(self, model: ModelProto, edit: Editor) -> ModelProto:
        weight = model.graph.initializer[0]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(2), weight.name))
        numpy_helper.to_array(model.graph.initializer[1])
        return model


def test_a_tool_is_given_the_values_and_what_it_leaves_alone_is_a_reference_again(model: Model) -> None:
    assert referred(model) == ["a", "b"]
    assert referred(apply_pass(ScaleOne(), model).model) == ["b"]


def test_a_pass_that_touches_no_weight_reads_none(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "bytes_of", lambda *given: pytest.fail("a weight was read"))
    after = apply_pass(DropIdentity(), model).model
    assert referred(after) == ["a", "b"]
    assert after.nodes == model.nodes - 1
    assert after.fingerprint != model.fingerprint


def test_onnxsim_is_not_given_what_it_has_no_use_for(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    after = apply_pass(Simplify(), model).model
    assert after.nodes == model.nodes - 1
    assert referred(after) == ["a", "b"]


def test_more_than_onnxsim_takes_is_left_alone_with_the_reason(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphsurgery.passes.simplify.MAX_BYTES", 1000)
    proto = model.proto
    node = onnx.helper.make_node("Mul", ["r", "two"], ["s"])
    proto.graph.node[3].input[0] = "s"
    proto.graph.node.insert(3, node)
    proto.graph.initializer.append(numpy_helper.from_array(np.float32([2]), "two"))
    applied = apply_pass(Simplify(), model)
    assert next(skip.reason for skip in applied.skips).startswith("onnxsim would need 0.0 GB of weights")
    assert referred(applied.model) == ["a", "b"]
