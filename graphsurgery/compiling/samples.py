"""What compiled parts read of an image, and what ONNX Runtime computes of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from graphsurgery.compiling.compiler import Sample, Tensors
from graphsurgery.errors import InputError
from graphsurgery.images.files import ImageFile, load_image
from graphsurgery.parts.manifest import PartEntry
from graphsurgery.runtime.detector import Detector


def samples_of(detector: Detector, images: Sequence[ImageFile], parts: Collection[str]) -> Iterator[dict[str, Sample]]:
    """Yield for each image the samples of `parts`, by part; the parts before them are played on the CPU.

    Where a part has a frozen batch, its rows are filled up with zeros. Raises InputError for an image that can't be
    read, and one with more rows than a batch has.
    """
    for number, image in enumerate(images):
        placed = detector.canvas.fit(load_image(image.path))
        tensors, found = detector.inputs(placed), {}
        for index, player in enumerate(detector.chain.players):
            entry, read = player.entry, dict(tensors)
            detector.chain.play_part(index, tensors)
            if entry.name in parts:
                inputs = with_whole_batch(entry, {name: read[name] for name in entry.inputs}, str(image.path))
                outputs = player.session.run(inputs)
                found[entry.name] = Sample(number, image.path.stem, placed.original, placed.pixels, inputs, outputs)
        yield found


def with_whole_batch(entry: PartEntry, inputs: Tensors, place: str) -> Tensors:
    """Return inputs whose rows are filled up to the part's frozen batch, if it has one."""
    if entry.batch is None:
        return inputs
    filled = dict(inputs)
    for name in entry.batch.inputs:
        rows, size = inputs[name], entry.batch.size
        if len(rows) > size:
            raise InputError(f"{place}: part '{entry.name}' gets {len(rows)} rows, and its batch is {size}")
        filled[name] = np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])
    return filled
