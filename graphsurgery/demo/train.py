"""Train the embedded networks on shapes drawn on the fly; this is how their checkpoints were made.

    python -m graphsurgery.demo.train --out shapes.safetensors --steps 2000 --batch 4 --seed 0 --threads 2
    python -m graphsurgery.demo.train shapes_yolo --out shapes_yolo.safetensors --steps 2400 --threads 1

The images, their order and the initial weights depend on the seed alone. The result depends also, in its last
digits, on the processor and the number of threads.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import save_file
from torch import nn

from graphsurgery.demo import yolo_loss
from graphsurgery.demo.network import shapes_maskrcnn
from graphsurgery.demo.shapes import HEIGHT, TRAIN_SEED, VAL_SEED, WIDTH, ShapeImage, coco_annotations, draw, generate
from graphsurgery.demo.yolo import DETECTIONS, ShapesYolo, shapes_yolo
from graphsurgery.detections.decode import decode
from graphsurgery.files import written_whole
from graphsurgery.images.placement import Placement

_PEAK_RATE = 3e-3
_WARM_UP_SHARE = 0.15
_WEIGHT_DECAY = 1e-3
_MAX_GRADIENT_NORM = 10.0
_STEPS_PER_CHECKPOINT = 100
_STEPS_PER_LINE = 20
_WORDS = {"bbox": "box", "segm": "mask"}

_NETWORKS: Mapping[str, Callable[[], nn.Module]] = {"shapes": shapes_maskrcnn, "shapes_yolo": shapes_yolo}

log = logging.getLogger(__name__)


def train(network: str, out: Path, *, steps: int, batch: int, seed: int, device: torch.device) -> nn.Module:
    """Train for `steps` steps of `batch` images; write `out` every 100 steps and at the end.

    The learning rate follows one cycle, so only the last checkpoint is a fully trained one.
    """
    torch.manual_seed(seed)
    model = _NETWORKS[network]().to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=_PEAK_RATE, total_steps=steps, pct_start=_WARM_UP_SHARE
    )
    began = time.monotonic()
    for step in range(steps):
        shown = [draw(TRAIN_SEED, step * batch + offset) for offset in range(batch)]
        losses = _losses(model, shown, device)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise FloatingPointError(f"step {step}: the loss is {total.item()}; lower the learning rate")
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        if (step + 1) % _STEPS_PER_LINE == 0:
            parts = " ".join(f"{name.removeprefix('loss_')} {value.item():.3f}" for name, value in losses.items())
            log.info(
                "step %d/%d  %.0f s  loss %.3f  %s",
                step + 1,
                steps,
                time.monotonic() - began,
                total.item(),
                parts,
            )
        if (step + 1) % _STEPS_PER_CHECKPOINT == 0 or step + 1 == steps:
            _save(model, out)
    return model


def average_precision(model: nn.Module, images: Iterable[ShapeImage]) -> dict[str, float]:
    """Return COCO AP, averaged over IoU 0.50 to 0.95, as {"bbox": ...}, and "segm" where the network has masks."""
    shown = list(images)
    device = next(model.parameters()).device
    model.eval()
    results = [entry for reference in shown for entry in _found(model, reference, device)]
    kinds = ("bbox",) if isinstance(model, ShapesYolo) else ("bbox", "segm")
    if not results:
        return dict.fromkeys(kinds, 0.0)

    precision: dict[str, float] = {}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on stdout
        truth = COCO()
        truth.dataset = coco_annotations(shown)
        truth.createIndex()
        for kind in kinds:
            # loadRes derives a box from the mask if an entry has no box, and overwrites areas: once per kind.
            evaluation = COCOeval(truth, truth.loadRes([dict(entry) for entry in results]), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            precision[kind] = float(evaluation.stats[0])
    return precision


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, write the checkpoint and log its average precision."""
    parser = argparse.ArgumentParser(
        prog="python -m graphsurgery.demo.train", description="Train an embedded network on random shapes."
    )
    parser.add_argument("network", nargs="?", choices=_NETWORKS, default="shapes", help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the safetensors file to write")
    parser.add_argument("--steps", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=4, help="images per step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and samplers (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--val", type=int, default=100, help="images to evaluate on (default: %(default)s)")
    options = parser.parse_args(arguments)

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = train(
        options.network, options.out, steps=options.steps, batch=options.batch, seed=options.seed, device=device
    )
    precision = average_precision(model, generate(options.val, VAL_SEED))
    words = "  ".join(f"{_WORDS[kind]} AP {value:.3f}" for kind, value in precision.items())
    log.info("%s  over %d images", words, options.val)


def _image(shown: ShapeImage) -> torch.Tensor:
    return torch.from_numpy(shown.image).permute(2, 0, 1).float() / 255


def _losses(model: nn.Module, shown: Sequence[ShapeImage], device: torch.device) -> dict[str, torch.Tensor]:
    images = [_image(each).to(device) for each in shown]
    boxes = [torch.from_numpy(each.boxes).to(device) for each in shown]
    labels = [torch.from_numpy(each.labels).to(device) for each in shown]
    if isinstance(model, ShapesYolo):
        return yolo_loss.losses(model, torch.stack(images), boxes, [each - 1 for each in labels])
    masks = [torch.from_numpy(each.masks.astype(np.uint8)).to(device) for each in shown]
    targets = [{"boxes": b, "labels": n, "masks": m} for b, n, m in zip(boxes, labels, masks, strict=True)]
    losses: dict[str, torch.Tensor] = model(images, targets)
    return losses


def _found(model: nn.Module, shown: ShapeImage, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield the detections in an image as entries of COCO's results."""
    image = _image(shown).to(device)
    if isinstance(model, ShapesYolo):
        with torch.inference_mode():
            output = model(image[None]).cpu().numpy()
        found = decode(DETECTIONS, {"output0": output}, Placement.whole((HEIGHT, WIDTH)))
        found["labels"] = found["labels"] + 1
    else:
        with torch.inference_mode():
            found = {name: tensor.cpu().numpy() for name, tensor in model([image])[0].items()}
    for index, box in enumerate(found["boxes"]):
        entry = {
            "image_id": shown.image_id,
            "category_id": int(found["labels"][index]),
            "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            "score": float(found["scores"][index]),
        }
        if "masks" in found:
            entry["segmentation"] = coco_mask.encode(np.asfortranarray(found["masks"][index, 0] > 0.5))
        yield entry


def _save(model: nn.Module, out: Path) -> None:
    with written_whole(out) as file:
        save_file({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}, file)


if __name__ == "__main__":
    main()
