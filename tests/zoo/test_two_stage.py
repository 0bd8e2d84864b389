"""The recipes of Mask R-CNN as detectron2 and mmdetection export it, on the embedded weights behind theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli

pytest.importorskip("torch")

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image

from graphsurgery import load
from graphsurgery.demo.network import CHECKPOINT, shapes_maskrcnn
from graphsurgery.demo.shapes import CATEGORIES, HEIGHT, VAL_SEED, WIDTH, draw, write_dataset

# torchvision's label 0 is the background, theirs is the first class
CLASSES = f"detections.classes=[{', '.join(CATEGORIES.values())}]"


class Stages(nn.Module):
    """The network between its transform's two ends: boxes, labels from 0 on, scores and masks of one canvas."""

    def __init__(self) -> None:
        super().__init__()
        self.network = shapes_maskrcnn(CHECKPOINT).eval()

    def found(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch = ImageList(images, [(HEIGHT, WIDTH)])
        features = self.network.backbone(images)
        proposals, _ = self.network.rpn(batch, features)
        (result,), _ = self.network.roi_heads(features, proposals, batch.image_sizes)
        return result["boxes"], result["labels"] - 1, result["scores"], result["masks"]


class Detectron2(Stages):
    """One image without a batch, blue first, 0..255, which the graph normalises; fields of Instances by alphabet."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        transform = self.network.transform
        mean, std = (torch.tensor(each)[:, None, None] for each in (transform.image_mean, transform.image_std))
        red_first = image[[2, 1, 0]] / 255
        boxes, labels, scores, masks = self.found(((red_first - mean) / std)[None])
        return boxes, labels, masks, scores, torch.tensor([HEIGHT, WIDTH])


class Mmdet(Stages):
    """A batch of one image that is normalised; boxes with their scores, labels, and masks as large as the canvas."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        boxes, labels, scores, masks = self.found(images)
        pasted = paste_masks_in_image(masks, boxes, (HEIGHT, WIDTH))
        return torch.cat([boxes, scores[:, None]], 1)[None], labels[None], pasted[:, 0][None]


NETWORKS: dict[str, tuple[type[Stages], tuple[int, ...], list[str]]] = {
    # its shape of image, and names of outputs
    "detectron2_maskrcnn": (Detectron2, (3, HEIGHT, WIDTH), ["boxes.35", "value.3", "value.7", "value", "size"]),
    "mmdet_maskrcnn": (Mmdet, (1, 3, HEIGHT, WIDTH), ["dets", "labels", "masks"]),
}


def written(kind: str, path: Path) -> Path:
    network, shape, outputs = NETWORKS[kind]
    image = torch.from_numpy(draw(0, 0).image).permute(2, 0, 1).float().reshape(shape)
    image = image if kind == "detectron2_maskrcnn" else (image / 255 - 0.45) / 0.225
    asked: Any = {"input_names": ["x.1"], "output_names": outputs, "opset_version": 16, "dynamo": False}
    with torch.no_grad():
        torch.onnx.export(network(), (image,), path, **asked)
    return path


@pytest.mark.parametrize("recipe", NETWORKS)
def test_apply_run_evaluate_and_int8(cli: Cli, tmp_path: Path, recipe: str) -> None:
    pytest.importorskip("pycocotools")
    network = written(recipe, tmp_path / "network.onnx")
    annotations = write_dataset(tmp_path / "shapes", 3, VAL_SEED)
    images = annotations.parent / "images"
    int8 = recipe == "detectron2_maskrcnn"  # once: the two have one network behind their boundaries
    outcome = cli(
        *("apply", recipe, "--set", f"source.onnx={network}", "--set", CLASSES, "--workers", 1),
        *("--set", f"capture={{images: {images}, samples: 2}}"),
        *("--set", f"evaluate={{images: {images}, annotations: {annotations}}}"),
        *("--out", tmp_path / "parts", "--model-io", tmp_path / "io", *(() if int8 else ["--no-variants"])),
    )
    assert outcome.code == 0, outcome.err
    run = json.loads((tmp_path / "parts" / "run.json").read_text("utf-8"))
    assert {step["verdict"] for step in (*run["passes"], *run["checks"])} == {"passed"}
    for ap in (run["evaluation"]["ap"]["bbox"], run["evaluation"]["ap"]["segm"]):
        assert ap["original"] > 0.5
        assert ap["parts"] == pytest.approx(ap["original"], abs=1e-3)
        assert not int8 or ap["int8"] == pytest.approx(ap["original"], abs=0.05)

    shown = draw(VAL_SEED, 1)
    found = load(tmp_path / "parts")(shown.image)
    sure = found["scores"] > 0.7
    assert sorted(found["labels"][sure] + 1) == sorted(shown.labels)
    order = [int(np.abs(found["boxes"][sure] - box).max(1).argmin()) for box in shown.boxes]
    assert np.abs(found["boxes"][sure][order] - shown.boxes).max() < 8
