"""Sample images with what the original model and the parts find in them, small enough to lie inside the report."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from graphsurgery.capture.samples import Sample
from graphsurgery.errors import InputError
from graphsurgery.images.batches import of_first
from graphsurgery.images.canvas import CanvasImage
from graphsurgery.images.drawing import draw_detections
from graphsurgery.runtime.detector import Detector

Array = npt.NDArray[Any]

_DRAWN = ("boxes", "labels", "scores", "masks", "masks_pasted", "keypoints")
_WIDEST, _SMALLEST = 640, 64
_MOST_BYTES = 150_000
_QUALITIES = (85, 70, 55, 40)


class Picture(NamedTuple):
    """One image twice, as PNG or JPEG: with the detections of the original model, and with those of the parts.

    `found` are the numbers of detections drawn, where they are known.
    """

    title: str
    original: bytes
    parts: bytes
    found: tuple[int, int] | None = None


def sample_pictures(
    samples: Iterable[Sample], detector: Detector, *, most: int = 4, score: float = 0.5
) -> list[Picture]:
    """Draw what was captured and what the parts find, side by side, on the canvas, for the first `most` samples.

    Samples whose capture holds no image or no detections are left out.
    """
    pictures: list[Picture] = []
    for sample in samples:
        if len(pictures) == most:
            break
        captured_as = _DRAWN if detector.postprocessing is None else tuple(detector.manifest.output_shapes)
        needed = _DRAWN[:3] if detector.postprocessing is None else captured_as
        if not all(name in sample for name in ("input", *needed)):
            continue
        canvas = sample.load("input")
        if canvas.shape != (3, detector.canvas.height, detector.canvas.width):
            continue
        placed = detector.canvas.placed(canvas, (sample.height, sample.width))
        captured = {name: sample.load(name) for name in captured_as if name in sample}
        visible = replace(placed, original=(placed.height, placed.width))  # the part of the canvas that is drawn
        both = []
        try:
            if detector.postprocessing is not None:
                image = detector.manifest.input
                captured = of_first(captured, sample.shape(image) if image in sample else None)
                captured = detector.read(captured, placed)
            restored = [visible.restore(each, paste=False) for each in (captured, detector.on_canvas(placed))]
            for found in restored:
                shown = {name: found[name] for name in _DRAWN if all(name in each for each in restored)}
                pasted = "masks_pasted" in shown
                if pasted:
                    shown["masks"] = shown.pop("masks_pasted")
                drawn = draw_detections(_visible(placed), shown, detector.manifest.classes, score, pasted)
                both.append((encode(drawn), int(np.count_nonzero(shown["scores"] >= score))))
        except (InputError, KeyError):  # detections of another form; a report without a picture is one all the same
            continue
        title = sample.file or f"Sample {sample.id}"
        pictures.append(Picture(title, both[0][0], both[1][0], (both[0][1], both[1][1])))
    return pictures


def _visible(placed: CanvasImage) -> Array:
    """Return the part of the canvas that the image fills, as uint8 [h, w, 3]."""
    image = placed.filled.transpose(1, 2, 0)
    return np.ascontiguousarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))


def encode(picture: Image.Image, most_bytes: int = _MOST_BYTES) -> bytes:
    """Return `picture` as PNG if that is small, else as the best JPEG that is; a last resort is to shrink it."""
    picture = picture.convert("RGB")
    if picture.width > _WIDEST:
        picture = picture.resize((_WIDEST, max(1, round(picture.height * _WIDEST / picture.width))))
    while True:
        ways: list[Mapping[str, Any]] = [{"format": "PNG", "optimize": True}]
        ways += [{"format": "JPEG", "quality": quality, "optimize": True} for quality in _QUALITIES]
        for options in ways:
            buffer = io.BytesIO()
            picture.save(buffer, **options)
            if buffer.tell() <= most_bytes or max(picture.size) <= _SMALLEST:
                return buffer.getvalue()
        picture = picture.resize((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)))
