"""Queries are read as transformers reads them, where it is installed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from graphsurgery.detections.decode import decode
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.detections.presets import PRESETS
from graphsurgery.images.placement import Placement

CANVAS = (96, 160)


def outputs(classes: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(classes)
    logits = random.normal(0, 3, (1, 40, classes)).astype(np.float32)
    return {"logits": logits, "pred_boxes": random.uniform(0.1, 0.9, (1, 40, 4)).astype(np.float32)}


@pytest.mark.parametrize(
    ("preset", "processor"),
    [("detr", "DetrImageProcessor"), ("detr", "YolosImageProcessor"), ("rtdetr", "RTDetrImageProcessor")],
)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_the_same_boxes_labels_and_scores(preset: str, processor: str, threshold: float) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    given = outputs(7)
    network = SimpleNamespace(**{name: torch.from_numpy(each) for name, each in given.items()})
    reader = getattr(transformers, processor)()
    (expected,) = reader.post_process_object_detection(network, threshold, target_sizes=torch.tensor([CANVAS]))
    found = decode(
        Postprocessing.from_json({**PRESETS[preset], "score": threshold, "maximum": 40}), given, Placement.whole(CANVAS)
    )
    order = np.argsort(-expected["scores"].numpy(), kind="stable")
    assert len(order) > 3
    assert found["labels"].tolist() == expected["labels"].numpy()[order].tolist()
    np.testing.assert_allclose(found["scores"], expected["scores"].numpy()[order], rtol=1e-5)
    np.testing.assert_allclose(found["boxes"], expected["boxes"].numpy()[order], atol=1e-3)
