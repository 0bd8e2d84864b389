"""Train the tiny Mask R-CNN on shapes drawn on the fly; this is how shapes.safetensors was made.

    python -m graphsurgery.demo.train --out FILE --steps 2000 --batch 4 --seed 0 --threads 2

The images, their order and the initial weights depend on the seed alone. The result depends also, in its last
digits, on the processor and the number of threads.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import save_file
from torchvision.models.detection import MaskRCNN

from graphsurgery.demo.network import shapes_maskrcnn
from graphsurgery.demo.shapes import TRAIN_SEED, VAL_SEED, ShapeImage, coco_annotations, draw, generate
from graphsurgery.files import written_whole

_PEAK_RATE = 3e-3
_WARM_UP_SHARE = 0.15
_WEIGHT_DECAY = 1e-3
_MAX_GRADIENT_NORM = 10.0
_STEPS_PER_CHECKPOINT = 100
_STEPS_PER_LINE = 20

log = logging.getLogger(__name__)


def train(out: Path, *, steps: int, batch: int, seed: int, device: torch.device) -> MaskRCNN:
    """Train for `steps` steps of `batch` images; write `out` every 100 steps and at the end.

    The learning rate follows one cycle, so only the last checkpoint is a fully trained one.
    """
    torch.manual_seed(seed)
    model = shapes_maskrcnn().to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=_PEAK_RATE, total_steps=steps, pct_start=_WARM_UP_SHARE
    )
    began = time.monotonic()
    for step in range(steps):
        shown = [draw(TRAIN_SEED, step * batch + offset) for offset in range(batch)]
        losses = model([_image(s).to(device) for s in shown], [_target(s, device) for s in shown])
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


def average_precision(model: MaskRCNN, images: Iterable[ShapeImage]) -> dict[str, float]:
    """Return COCO AP, averaged over IoU 0.50 to 0.95, as {"bbox": ..., "segm": ...}."""
    shown = list(images)
    results: list[dict[str, Any]] = []
    device = next(model.parameters()).device
    model.eval()
    for reference in shown:
        with torch.inference_mode():
            found = model([_image(reference).to(device)])[0]
        boxes, scores, labels = (found[key].cpu().numpy() for key in ("boxes", "scores", "labels"))
        masks = found["masks"][:, 0].cpu().numpy() > 0.5
        for box, score, label, mask in zip(boxes, scores, labels, masks, strict=True):
            results.append(
                {
                    "image_id": reference.image_id,
                    "category_id": int(label),
                    "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
                    "score": float(score),
                    "segmentation": coco_mask.encode(np.asfortranarray(mask)),
                }
            )
    if not results:
        return {"bbox": 0.0, "segm": 0.0}

    precision: dict[str, float] = {}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on stdout
        truth = COCO()
        truth.dataset = coco_annotations(shown)
        truth.createIndex()
        for kind in ("bbox", "segm"):
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
        prog="python -m graphsurgery.demo.train", description="Train the tiny Mask R-CNN on random shapes."
    )
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
    model = train(options.out, steps=options.steps, batch=options.batch, seed=options.seed, device=device)
    precision = average_precision(model, generate(options.val, VAL_SEED))
    log.info("box AP %.3f  mask AP %.3f  over %d images", precision["bbox"], precision["segm"], options.val)


def _image(shown: ShapeImage) -> torch.Tensor:
    return torch.from_numpy(shown.image).permute(2, 0, 1).float() / 255


def _target(shown: ShapeImage, device: torch.device) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.from_numpy(shown.boxes).to(device),
        "labels": torch.from_numpy(shown.labels).to(device),
        "masks": torch.from_numpy(shown.masks.astype(np.uint8)).to(device),
    }


def _save(model: MaskRCNN, out: Path) -> None:
    with written_whole(out) as file:
        save_file({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}, file)


if __name__ == "__main__":
    main()
