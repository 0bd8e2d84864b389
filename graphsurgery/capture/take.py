"""Takes a capture: traces a source on sample images and writes what it computes, all of it or nothing."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphsurgery.capture.samples import (
    FORMAT,
    INDEX,
    Capture,
    InputImage,
    Request,
    Sample,
    check_id,
    digest_of,
    exists,
    file_stem,
    refuse_twin,
)
from graphsurgery.demo.shapes import embedded_images
from graphsurgery.errors import CaptureError
from graphsurgery.files.commit import Draft, writing
from graphsurgery.images.canvas import Canvas
from graphsurgery.images.files import load_image, read_images
from graphsurgery.progress import Progress
from graphsurgery.sources import Source, Tensors

Array = npt.NDArray[Any]


def capture(
    source: Source,
    images: Iterable[InputImage | tuple[str, Array]],
    folder: Path,
    progress: Progress | None = None,
    *,
    total: int | None = None,
    overwrite: bool = False,
    request: Request | None = None,
    draft: Draft | None = None,
) -> Capture:
    """Trace every image on the canvas of `source` into `folder`, and return what is then there.

    `images` are taken one at a time. They replace those of an earlier capture of the same model; one of another model
    is only replaced if `overwrite` is set. `request` is what was asked for, to be kept. `progress` is called with the
    number done and `total`, 0 if it isn't known. What was in the folder stays whole until all are traced; `draft` is
    where they are until then, if the caller has locked the folder. Raises CaptureError for an id that can't be a
    folder's name or comes twice, another model's folder, or a folder that can't be written.
    """
    if not folder.resolve().name:
        raise CaptureError(f"{folder}: is no folder for a capture; give one of its own")
    if total is None:
        total = len(images) if isinstance(images, Sized) else 0
    description = json.loads(json.dumps(source.describe()))
    samples: list[Sample] = []
    taken: set[str] = set()
    try:
        with contextlib.ExitStack() as stack:
            draft = draft or stack.enter_context(writing(folder, math.inf))
            earlier = Capture.open(folder) if exists(folder) else None
            if earlier is not None and not overwrite:
                earlier.require_source(description)
            for image in images:
                name, pixels, file = InputImage(*image)
                check_id(name)
                refuse_twin(name, taken, str(folder))
                placed = source.canvas.fit(pixels)
                _write_sample(draft.work / name, source.trace(placed))
                samples.append(Sample(name, folder / name, file, *placed.original, digest_of(pixels)))
                if progress is not None:
                    progress(len(samples), total)
            if not samples:
                raise CaptureError(f"{folder}: there is no image to capture; name some")
            _write_index(draft.work / INDEX, description, source.canvas, samples, request)
            draft.publish(_files_of(earlier), INDEX)
    except OSError as error:
        raise CaptureError(f"{folder}: can't be written ({error}); make room, or name another folder") from error
    return Capture.open(folder)


def _files_of(earlier: Capture | None) -> Sequence[str]:
    """Return the files of an earlier capture; others in its folder are the user's."""
    if earlier is None:
        return []
    return [INDEX, *(f"{each.id}/{path.name}" for each in earlier.samples for path in each.folder.glob("*.npy"))]


def reference_detections(source: Source, image: Array) -> Tensors:
    """Return what the original model finds in an image uint8 [h, w, 3], in the image's own pixels.

    boxes [M, 4], labels, scores, and masks [M, 1, h, w] as probabilities or keypoints [M, K, 3].
    """
    placed = source.canvas.fit(image)
    return placed.restore(source.detect(placed))


def embedded_samples(count: int) -> Iterator[InputImage]:
    """Yield the images that a capture takes unless others are named: `demo.shapes.embedded_images`."""
    for shown in embedded_images(count):
        yield InputImage(str(shown.image_id), shown.image)


def picture_of(request: Request | None, name: str) -> Array:
    """Return the pixels of the captured image `name`, uint8 [h, w, 3]; where its file is gone, of an embedded one.

    Raises InputError for a file that can't be read.
    """
    if request is not None and request.images is not None and Path(request.images).exists():
        annotations = None if request.annotations is None else Path(request.annotations)
        for image in read_images(Path(request.images), annotations):
            if image.id == name:
                return load_image(image.path)
    samples = list(embedded_samples(1 if request is None else max(1, request.samples)))
    return next((image.pixels for image in samples if image.id == name), samples[0].pixels)


def _write_sample(folder: Path, tensors: Tensors) -> None:
    folder.mkdir()
    for name, tensor in tensors.items():
        path = folder / f"{file_stem(name)}.npy"
        with path.open("xb") as file:  # x: two names that differ in case only must not share a file
            np.save(file, tensor, allow_pickle=False)


def _write_index(
    index: Path, source: Mapping[str, object], canvas: Canvas, samples: list[Sample], request: Request | None
) -> None:
    content = {
        "format": FORMAT,
        "source": source,
        "canvas": canvas.to_json(),
        "request": None if request is None else asdict(request),
        "samples": [
            {"id": s.id, "file": s.file, "height": s.height, "width": s.width, "digest": s.digest} for s in samples
        ],
    }
    index.write_text(json.dumps(content, indent=2), encoding="utf-8")
