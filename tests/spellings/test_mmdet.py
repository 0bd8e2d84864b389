"""The embedded detector in mmdetection's spelling finds what it finds as torchvision writes it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

pytest.importorskip("torch")

import torch
from torch import Tensor
from torchvision.models.detection import rpn
from torchvision.ops import nms

from graphsurgery.demo.network import CHECKPOINT, shapes_maskrcnn
from graphsurgery.demo.shapes import HEIGHT, VAL_SEED, WIDTH, draw
from graphsurgery.images.preprocessing import PRESETS, Preprocessing
from graphsurgery.sources import SourceSpec, open_source

from .mmdet import MOST_PROPOSALS, Export, written

SIZES = (HEIGHT, WIDTH)
IMAGE = Preprocessing(**PRESETS["mmdet"])


def exported(folder: Path, way: Export) -> ModelProto:
    return onnx.load(written(folder / "network.onnx", way))


def traced(path: Path, image: np.ndarray, size: tuple[int, int] = SIZES) -> dict[str, np.ndarray]:
    source = open_source(SourceSpec("onnx", path.name, size=size, folder=path.parent, image=IMAGE))
    return source.trace(source.canvas.fit(image))


def with_levels_as_one(boxes: Tensor, scores: Tensor, levels: Tensor, threshold: float) -> Tensor:
    """Suppress boxes of an RPN whatever their level, as mmdetection's export does."""
    kept: Tensor = nms(boxes, scores, threshold)
    return kept


@pytest.mark.parametrize("way", [Export(), Export(mmcv_ops=True)], ids=["roialign", "mmcv"])
def test_it_finds_what_torchvision_finds_but_for_the_levels_of_the_rpn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Export
) -> None:
    path = written(tmp_path / "network.onnx", way)
    network = shapes_maskrcnn(CHECKPOINT).eval()
    for most in (network.rpn._pre_nms_top_n, network.rpn._post_nms_top_n):
        most["testing"] = MOST_PROPOSALS
    boxes_of_rpn = SimpleNamespace(**{**vars(rpn.box_ops), "batched_nms": with_levels_as_one})
    monkeypatch.setattr(rpn, "box_ops", boxes_of_rpn)
    for index in range(2):
        image = draw(VAL_SEED, index).image
        with torch.no_grad():
            (found,) = network([torch.from_numpy(image).permute(2, 0, 1) / 255])
        got = traced(path, image)
        count = len(found["scores"])
        dets, labels, masks = (got[name][0] for name in ("dets", "labels", "masks"))
        assert (dets.shape, masks.shape) == ((100, 5), (100, *SIZES))
        np.testing.assert_allclose(dets[:count, 4], found["scores"], atol=1e-4)
        assert not dets[count:, 4].any()
        np.testing.assert_allclose(dets[:count, :4], found["boxes"], atol=1e-2)
        assert np.array_equal(labels[:count], found["labels"] - 1)
        # torchvision pastes into whole pixels, so that edges differ
        both = (found["masks"][:, 0].numpy() >= 0.5, masks[:count] > 0)
        union, common = np.logical_or(*both).sum((1, 2)), np.logical_and(*both).sum((1, 2))
        assert (common / np.maximum(union, 1))[found["scores"] > 0.3].min() > 0.85


def test_it_takes_images_of_other_sizes_and_several_at_once(tmp_path: Path) -> None:
    path = written(tmp_path / "network.onnx")
    image = draw(VAL_SEED, 1).image
    one = traced(path, image, (192, 224))
    assert one["masks"].shape == (1, 100, 192, 224)
    source = open_source(SourceSpec("onnx", path.name, size=(192, 224), folder=tmp_path, image=IMAGE, batch=2))
    both = source.trace(source.canvas.fit(image))
    assert both["masks"].shape == (2, 100, 192, 224)
    np.testing.assert_allclose(both["dets"][:1], one["dets"], atol=1e-3)


def test_its_words_are_those_of_the_tool(tmp_path: Path) -> None:
    proto = exported(tmp_path, Export(aligned=True))
    graph = proto.graph
    stored = {tensor.name for tensor in graph.initializer}
    assert proto.ir_version == 6
    assert {each.domain: each.version for each in proto.opset_import} == {"": 11, "mmcv": 1}
    assert stored < {value.name for value in graph.input}
    axes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim][:4]
        for value in (*graph.input, *graph.output)
        if value.name not in stored
    }
    assert axes["input"] == ["batch", 3, "width", "height"]
    assert axes["dets"][:2] == axes["labels"] == axes["masks"][:2] == ["batch", "num_dets"]
    kinds = Counter(node.op_type for node in graph.node)
    wanted = {"NonMaxSuppression": 2, "ScatterND": 2, "TopK": 7, "RoiAlign": 8, "Resize": 3, "grid_sampler": 1}
    assert {kind: kinds[kind] for kind in wanted} == wanted
    assert not {"NonZero", "If", "Loop"} & kinds.keys()
    (resize, *_) = (node for node in graph.node if node.op_type == "Resize")
    options = {each.name: helper.get_attribute_value(each) for each in resize.attribute}
    assert options == {
        "coordinate_transformation_mode": b"asymmetric",
        "cubic_coeff_a": pytest.approx(-0.75),
        "mode": b"nearest",
        "nearest_mode": b"floor",
    }
    assert len(resize.input) == 4


def test_with_mmcv_it_pools_by_its_operator(tmp_path: Path) -> None:
    kinds = Counter(node.op_type for node in exported(tmp_path, Export(mmcv_ops=True)).graph.node)
    assert (kinds["MMCVRoiAlign"], kinds["RoiAlign"]) == (8, 0)
