"""What a model is calibrated with: its inputs as they were captured, one sample at a time.

A model with a frozen batch gets its rows as the runtime gives them, in slices of that size, and its parameters as they
are. What is missing in the
last one is filled with the sample's own rows, again from the first: the runtime fills it with zeros and throws away
what comes of them, but a calibration that counts values (entropy, percentile) would take them for data. Repeated rows
add no value that is not real. A sample without rows gives no run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, ValueInfoProto

from graphsurgery.errors import CaptureError, ModelError
from graphsurgery.graph.notes import frozen_batch
from graphsurgery.graph.protos import required_inputs
from graphsurgery.rewrite.context import Captured


class Feed(NamedTuple):
    """The inputs of one run, and how many of the rows are data; None where the batch is not frozen."""

    inputs: dict[str, np.ndarray]
    rows: int | None


class Feeds:
    """The inputs of `model` in the first `limit` samples (None: in all), read anew each time they are asked for.

    All samples are looked at once to begin with. Raises CaptureError for one that does not fit the model, for NaN
    and Inf, and where no run is left; ModelError for a model without inputs.
    """

    def __init__(self, model: ModelProto, samples: Sequence[Captured], limit: int | None = None) -> None:
        self._infos = {info.name: info for info in required_inputs(model.graph)}
        if not self._infos:
            raise ModelError("the model has no inputs, so that there is nothing to calibrate it with; fold it instead")
        self._batch = frozen_batch(model)
        self._samples = samples if limit is None else samples[:limit]
        if not self._samples:
            raise CaptureError("there is no captured sample to calibrate with; capture some, and allow at least one")
        self._length = sum(1 for _ in self.runs())
        if not self._length:
            rows = self._batch.inputs if self._batch is not None else self._infos
            raise CaptureError(
                f"no captured sample has a row of {', '.join(rows)}: nothing was detected in "
                f"{len(self._samples)} samples; capture images with objects in them"
            )

    @property
    def inputs(self) -> Sequence[str]:
        """Names of the model's inputs."""
        return tuple(self._infos)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        for run in self.runs():
            yield run.inputs

    def runs(self) -> Iterator[Feed]:
        """Yield the inputs as iterating does, with the number of rows that are data."""
        for sample in self._samples:
            values = {name: self._load(sample, name) for name in self._infos}
            if self._batch is None:
                yield Feed(values, None)
                continue
            counts = {name: len(values[name]) for name in self._batch.inputs}
            if len(set(counts.values())) > 1:
                seen = ", ".join(f"{name} {count}" for name, count in counts.items())
                raise CaptureError(f"sample {sample.id}: inputs must have equally many rows, but have {seen}")
            count = next(iter(counts.values()))
            size = self._batch.size
            for start in range(0, count, size):
                rows = np.arange(start, start + size)
                rows = np.where(rows < count, rows, rows % count)
                yield Feed(values | {name: values[name][rows] for name in counts}, min(size, count - start))

    def _load(self, sample: Captured, name: str) -> np.ndarray:
        place = f"sample {sample.id}: '{name}'"
        if name not in sample:
            raise CaptureError(
                f"{place}, an input of the model, was not captured; put quantize into part_passes, where inputs are "
                "captured tensors, or capture again"
            )
        value = sample.load(name)
        has_rows = self._batch is not None and name in self._batch.inputs
        kind, shape = _type_of(self._infos[name])
        if kind is not None and value.dtype != kind:
            raise CaptureError(f"{place} is {value.dtype}, but the model takes {kind}; capture again")
        if shape is not None:
            wanted = [None, *shape[1:]] if has_rows else shape
            fits = value.ndim == len(wanted) and all(
                size is None or size == seen for size, seen in zip(wanted, value.shape, strict=True)
            )
            if not fits:
                listed = ", ".join("?" if size is None else str(size) for size in wanted)
                raise CaptureError(
                    f"{place} has shape {list(value.shape)}, but the model takes [{listed}]; capture again"
                )
        if has_rows and not value.ndim:
            raise CaptureError(f"{place} is a scalar, but the model takes rows; capture again")
        if not _is_finite(value):
            raise CaptureError(f"{place} holds NaN or Inf, which have no range; leave the sample out or capture again")
        return value


def _type_of(info: ValueInfoProto) -> tuple[np.dtype | None, list[int | None] | None]:
    """Return the element type and the shape that an input declares; None for what it leaves open."""
    tensor = info.type.tensor_type
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)) if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return kind, None
    return kind, [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]


def _is_finite(value: np.ndarray) -> bool:
    return value.dtype.kind in "biu" or not value.size or bool(np.isfinite(value).all())
