"""What is left of a run that a pass broke: the graphs before and after that pass, and where they begin to differ.

    model/shapes          what the last good run wrote; it stays as it is
    model/shapes.failed   before.onnx, after.onnx and inputs/, until the next failed run puts its own there

The gate judges by captured tensors and the recipe's tolerances. Inside the graph nothing was captured, so there the
graph before the pass is the reference, and 1e-4 of a tensor's largest value is allowed.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from graphsurgery.capture.samples import Sample
from graphsurgery.debugging.bisect import bisect, from_mapping
from graphsurgery.debugging.divergence import Divergence
from graphsurgery.debugging.reproduction import files_of_reproduction, save_tensors
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.files.commit import writing
from graphsurgery.gate.tolerances import DEFAULT_TOLERANCE, Tolerances
from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import frozen_batch
from graphsurgery.parts.folder import RECORD, REPORT


def record(
    before: Model, after: Model, sample: Sample, folder: Path, progress: Callable[[int, int], None]
) -> tuple[str, Divergence | None]:
    """Put both graphs and their inputs into `folder`; return the line that says where they begin to differ, and where.

    The line is empty where that can't be done: the failure itself is what the user must hear of, whatever happens here.
    """
    try:
        given = _given(before, after, sample)
        _write(before, after, given, folder)
    except (GraphSurgeryError, OSError):
        return "", None
    inside = [folder / name for name in ("before.onnx", "after.onnx", "inputs")]
    command = shlex.join(["python", "-m", "graphsurgery", "bisect", *map(str, inside[:2]), "--inputs", str(inside[2])])
    try:
        found = bisect(before, after, from_mapping(given), Tolerances(), progress)
    except Exception as error:  # as above
        return f"the graphs can't be searched ({type(error).__name__}); try: {command}", None
    if not found.divergences:
        allowed = f"{DEFAULT_TOLERANCE.relative:.0e} of its largest value"
        return f"no tensor is off by more than {allowed} between the graphs before and after the pass: {command}", None
    first = found.divergences[0]
    return f"first difference: {first.explain()}; see it again: {command}", first


def _given(before: Model, after: Model, sample: Sample) -> dict[str, np.ndarray]:
    """Return what both graphs read; as many rows as a frozen batch has, where one of them has one."""
    names = dict.fromkeys([*before.inputs, *(name for name in after.inputs if name in sample)])
    given = {name: sample.load(name) for name in names}
    batch = frozen_batch(after.proto)
    if batch is None:
        return given
    filled = {name: _filled(given[name][: batch.size], batch.size) for name in batch.inputs if name in given}
    return given | filled


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])


def _write(before: Model, after: Model, given: Mapping[str, np.ndarray], folder: Path) -> None:
    with writing(folder) as draft:
        before.write(draft.work / "before.onnx")
        after.write(draft.work / "after.onnx")
        save_tensors(given, draft.work / "inputs")
        draft.publish(files_of_run(folder), "after.onnx")


def files_of_run(folder: Path) -> list[str]:
    """Return what failed runs leave in `folder`, as far as it is there; other files are the user's."""
    return [*files_of_reproduction(folder), RECORD, REPORT]
