"""What compiled parts read of an image, and what ONNX Runtime computes of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphsurgery.compiling.compiler import Job, Sample, Tensors
from graphsurgery.compiling.test_data_sets import write_test_data
from graphsurgery.devices.session import Session
from graphsurgery.errors import InputError
from graphsurgery.images.files import ImageFile, load_image
from graphsurgery.parts.manifest import PartEntry
from graphsurgery.progress import Progress
from graphsurgery.runtime.detector import Detector


def samples_of(
    detector: Detector, images: Sequence[ImageFile], parts: Collection[str], *, some_rows: bool = False
) -> Iterator[dict[str, Sample]]:
    """Yield for each image the samples of `parts`, by part; the parts before them are played on the CPU.

    Where a part has a frozen batch, its rows are filled up with zeros. Where an image gives more rows than a batch has,
    `some_rows` takes as many, evenly spaced: proposals lie in the order of their scores, and the first would stand for
    the best alone. Raises InputError without it, and for an image that can't be read.
    """
    for number, image in enumerate(images):
        placed = detector.canvas.fit(load_image(image.path))
        tensors, found = detector.inputs(placed), {}
        for index, player in enumerate(detector.chain.players):
            entry, read = player.entry, dict(tensors)
            detector.chain.play_part(index, tensors)
            if entry.name in parts:
                read = spaced(entry, read) if some_rows else read
                inputs = with_whole_batch(entry, {name: read[name] for name in entry.inputs}, str(image.path))
                outputs = player.session.run(inputs)
                found[entry.name] = Sample(number, image.path.stem, placed.original, placed.pixels, inputs, outputs)
        yield found


def dump(detector: Detector, images: Sequence[Path], folder: Path, progress: Progress) -> None:
    """Write what the detector reads and gives of each image into `folder`, and each part into a folder of its name.

    A part with a frozen batch gets its first slice. Raises InputError for an image that can't be read; OSError.
    """
    for number, path in enumerate(images):
        inputs = detector.inputs(detector.canvas.fit(load_image(path)))
        tensors = dict(inputs)
        for index, player in enumerate(detector.chain.players):
            entry, size = player.entry, player.size
            read = {name: tensors[name] for name in entry.inputs}
            detector.chain.play_part(index, tensors)
            if entry.batch is not None:
                read |= {name: read[name][:size] for name in entry.batch.inputs}
                read = dict(with_whole_batch(entry, read, str(path)))
            write_test_data(folder / entry.name, number, read, player.session.run(read))
        write_test_data(folder, number, inputs, {name: tensors[name] for name in detector.manifest.outputs})
        progress(number + 1, len(images))


def samples_of_whole(detector: Detector, images: Sequence[ImageFile], job: Job) -> Iterator[dict[str, Sample]]:
    """Yield for each image the sample of all parts as one model, whose job is given. Raises as `samples_of`."""
    session = Session(job.model.proto, name=f"part '{job.name}'")
    for number, image in enumerate(images):
        placed = detector.canvas.fit(load_image(image.path))
        inputs = detector.inputs(placed)
        outputs = session.run(inputs)
        yield {job.name: Sample(number, image.path.stem, placed.original, placed.pixels, inputs, outputs)}


def spaced(entry: PartEntry, inputs: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return inputs with at most as many rows as the part's frozen batch has, evenly spaced."""
    if entry.batch is None:
        return inputs
    found = dict(inputs)
    for name in entry.batch.inputs:
        rows, size = inputs[name], entry.batch.size
        if len(rows) > size:
            found[name] = rows[np.arange(size) * len(rows) // size]
    return found


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
