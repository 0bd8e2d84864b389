"""The parts that a search works on and their samples, as files that any worker can read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from graphsurgery.capture.samples import Sample, file_stem
from graphsurgery.errors import InputError
from graphsurgery.parts.folder import sha256_of
from graphsurgery.parts.part import Part
from graphsurgery.search.attempt import Material, Stored


def written(parts: Sequence[Part], samples: Sequence[Sample], folder: Path) -> dict[str, Material]:
    """Write the parts into `folder`, and of the samples what no capture holds; return them by name.

    Of a sample those tensors count that the part reads. Raises InputError where the folder can't be written.
    """
    try:
        return {part.name: _written(part, samples, folder / part.name) for part in parts}
    except OSError as error:
        raise InputError(f"{folder}: can't be written ({error.strerror or error}); make room and run again") from error


def _written(part: Part, samples: Sequence[Sample], folder: Path) -> Material:
    folder.mkdir(parents=True)
    model = folder / "part.onnx"
    part.model.with_values_inside().save(model)
    stored, told = [], []
    for number, sample in enumerate(samples):
        if not all(name in sample for name in part.model.inputs):
            continue
        own = folder / f"sample_{number}"
        kept = {name: value for name, value in sample.computed.items() if name in part.model.inputs}
        if kept:
            own.mkdir()
        for name, value in kept.items():
            np.save(own / f"{file_stem(name)}.npy", value)
        stored.append(Stored(sample.id, (own, sample.folder.resolve()) if kept else (sample.folder.resolve(),)))
        told.append(_digests(stored[-1], part.model.inputs))
    fingerprint = hashlib.sha256(json.dumps([sha256_of(model), told], sort_keys=True).encode()).hexdigest()
    return Material(part.name, model, tuple(stored), fingerprint)


def _digests(sample: Stored, names: Sequence[str]) -> Mapping[str, str]:
    return {name: hashlib.sha256(np.ascontiguousarray(sample.load(name)).tobytes()).hexdigest() for name in names}
