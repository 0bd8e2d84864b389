"""What the unrolled spellings of the embedded detector are, and that they find what it finds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

import torch
from onnx import ModelProto, numpy_helper

from graphsurgery.demo.network import CHECKPOINT, shapes_maskrcnn
from graphsurgery.demo.shapes import VAL_SEED, draw
from graphsurgery.devices import session
from spellings.unrolled_batchnorm import SPELLINGS, as_read, write


@pytest.fixture(scope="module", params=SPELLINGS)
def spelled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ModelProto]:
    return request.param, onnx.load(write(request.param, tmp_path_factory.mktemp("spelled") / "network.onnx"))


def test_it_finds_what_the_torch_model_finds(spelled: tuple[str, ModelProto]) -> None:
    spelling, model = spelled
    torchs = shapes_maskrcnn(CHECKPOINT).eval()
    for number in range(3):
        image = draw(VAL_SEED, number).image
        with torch.no_grad():
            (wanted,) = torchs([torch.from_numpy(image).permute(2, 0, 1).float() / 255])
        found = session.run(model, {"image": as_read(spelling, image)}, name=spelling)
        boxes, labels, scores, masks = (found[name] for name in SPELLINGS[spelling].outputs)
        assert list(labels) == wanted["labels"].tolist()
        assert masks.shape == (len(boxes), 1, 28, 28)
        # the zoo's first Conv pads with another colour, 1/60 of a deviation away
        np.testing.assert_allclose(scores, wanted["scores"].numpy(), atol=2e-3)
        np.testing.assert_allclose(boxes, wanted["boxes"].numpy(), atol=0.05)


def test_every_batchnorm_is_a_mul_and_an_add(spelled: tuple[str, ModelProto]) -> None:
    graph = spelled[1].graph
    writer = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = 0
    for add in (node for node in graph.node if node.op_type == "Add" and node.input[1] in stored):
        mul = writer[add.input[0]]
        conv = writer.get(mul.input[0], mul)
        if (mul.op_type, conv.op_type) != ("Mul", "Conv"):
            continue
        channels = stored[conv.input[1]].shape[0]
        assert len(conv.input) == 2
        assert stored[mul.input[1]].shape == stored[add.input[1]].shape == (1, channels, 1, 1)
        pairs += 1
    norms = [each for each in shapes_maskrcnn().modules() if isinstance(each, torch.nn.BatchNorm2d)]
    assert pairs == len(norms) == 33
    assert not [node for node in graph.node if node.op_type == "BatchNormalization"]


def test_the_zoos_forms_are_those_of_operator_set_10(tmp_path: Path) -> None:
    model = onnx.load(write("zoo", tmp_path / "network.onnx"))
    operators = Counter(node.op_type for node in model.graph.node)
    assert model.opset_import[0].version == 10
    assert operators["Scatter"] == 8
    assert operators.keys().isdisjoint({"Range", "GatherND", "ScatterND", "ScatterElements", "If", "Loop"})
    shapes = {"Clip": 1, "Resize": 2, "Squeeze": 1, "Unsqueeze": 1}
    assert all(len(node.input) == shapes[node.op_type] for node in model.graph.node if node.op_type in shapes)
    inputs = [value.name for value in model.graph.input]
    assert {tensor.name for tensor in model.graph.initializer} == {*inputs} - {"image"}
