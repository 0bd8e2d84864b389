from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime
import pytest
import torch

from graphsurgery.demo.network import CHECKPOINT, shapes_maskrcnn
from graphsurgery.demo.shapes import HEIGHT, VAL_SEED, WIDTH, draw
from graphsurgery.detections.row_groups import Keys
from graphsurgery.gate.matched_rows import match_rows
from spellings.detectron2 import PROPOSALS, RPN_BEST, exported

IMAGES = 12


@pytest.mark.parametrize("opset", [11, 17])
def test_finds_what_the_network_finds(opset: int) -> None:
    trained = shapes_maskrcnn(CHECKPOINT).eval()
    trained.rpn._pre_nms_top_n["testing"], trained.rpn._post_nms_top_n["testing"] = RPN_BEST, PROPOSALS
    session = onnxruntime.InferenceSession(exported(opset).SerializeToString(), providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    for number in range(IMAGES):
        image = draw(VAL_SEED, number).image
        with torch.inference_mode():
            (expected,) = trained([torch.from_numpy(image).permute(2, 0, 1) / 255])
        blue_first = image[..., ::-1].transpose(2, 0, 1).astype(np.float32)
        boxes, labels, masks, scores, size = session.run(None, {pixels.name: blue_first})
        wanted = Keys(expected["boxes"].numpy(), expected["labels"].numpy() - 1, expected["scores"].numpy())
        match = match_rows(wanted, Keys(boxes, labels, scores))
        assert match.unmatched == 0, (number, match.missing, match.extra)
        np.testing.assert_allclose(boxes[match.candidate], wanted.boxes[match.reference], atol=2e-3)
        np.testing.assert_allclose(scores[match.candidate], expected["scores"].numpy()[match.reference], atol=1e-4)
        assert masks.shape == (len(boxes), 1, 28, 28)
        assert size.tolist() == [HEIGHT, WIDTH]


def test_is_spelled_as_detectron2_spells() -> None:
    graph = exported(11).graph
    count = Counter(node.op_type for node in graph.node)
    assert [each.op_type for each in graph.node if each.op_type != "Constant"][:3] == ["Cast", "Sub", "Div"]
    wanted = {"If": 2, "TopK": 5, "RoiAlign": 8, "ScatterND": 8, "NonZero": 14, "GatherND": 5}
    assert {op: count[op] for op in wanted} == wanted
    assert "NonMaxSuppression" not in count  # in the Ifs


def test_images_of_other_sizes_are_padded_inside() -> None:
    model = exported(11, (200, 300))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    boxes, *_, size = session.run(None, {pixels.name: np.full((3, 200, 300), 120, np.float32)})
    assert size.tolist() == [200, 300]
    assert np.isfinite(boxes).all()
