"""Whether the parts hold at other sizes of the image than the canvas, where a compiler wants its input left open.

The original is the reference there too: it is opened anew at each size, and fed the sample that tells most, laid on a
canvas of that size. In a batch each image is another, and each is compared by itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from graphsurgery.capture.samples import Sample
from graphsurgery.capture.take import picture_of
from graphsurgery.compiling.open_shapes import NoRoom, OpenShape, fitting, require_fit
from graphsurgery.errors import CaptureError, InputError
from graphsurgery.gate.gate import Judged, Tensors
from graphsurgery.graph.model import Model
from graphsurgery.images.batches import of_each
from graphsurgery.parts.manifest import Manifest
from graphsurgery.parts.part import Part
from graphsurgery.pipeline.judging import judge, telling
from graphsurgery.pipeline.run import Run, timed
from graphsurgery.processes.peak_memory import Room
from graphsurgery.report.run_record import Step
from graphsurgery.rewrite import Skip
from graphsurgery.sources import HasBoundary, SourceSpec, open_source

_RANK = 4  # of images in a batch


def check_open_shapes(run: Run, parts: Sequence[Judged[Part]], whole: Judged[Model], manifest: Manifest) -> None:
    """Compare the chain of parts with the original at the shapes that the recipe's compilers want the image to take.

    What passes were granted on the canvas they are granted here. Other inputs that are to stay open are for `compile`
    to try. Raises InputError where a part, or the original, can't take a shape, Difference where they differ.
    """
    declared = {name: tensor.shape for part in manifest.parts for name, tensor in part.inputs.items()}
    for compiler in run.recipe.compilers:
        place, wanted = f"compiler '{compiler.name}'", compiler.open_shapes()
        require_fit(place, wanted, declared)
        if manifest.input in wanted and run.gate is not None:
            _check_range(run, parts, whole, place, manifest.input, wanted[manifest.input])


def _check_range(
    run: Run, parts: Sequence[Judged[Part]], whole: Judged[Model], place: str, name: str, wanted: OpenShape
) -> None:
    room = Room()
    for shape in wanted.tried():
        at = _At(place, name, shape)
        chain = sum(part.subject.model.nodes for part in parts)
        step = Step(str(at), nodes_before=chain, nodes_after=chain)
        run.record.checks.append(step)
        try:
            at = replace(at, shape=fitting({name: wanted}, {name: shape}, room)[name])
        except NoRoom as reason:
            step.skips = [Skip("", str(reason))]
        else:
            step.name = str(at)
            with room.measured(math.prod(at.shape)):
                _check(run, parts, whole, step, at)
        run.watcher.finished(step)


@dataclass(frozen=True)
class _At:
    """That the image `name` has a shape, because `place` wants it."""

    place: str
    name: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)}"

    @property
    def images(self) -> int:
        """How many images that are."""
        return self.shape[0] if len(self.shape) == _RANK else 1

    def of_source(self, spec: SourceSpec) -> SourceSpec:
        """Return the source at that size, with that many images at once."""
        rows = self.shape[-3:]
        height, width = rows[1:] if spec.image.layout == "NCHW" else rows[:2]
        return replace(spec, size=(height, width), batch=self.images if len(self.shape) == _RANK else None)


def _check(run: Run, parts: Sequence[Judged[Part]], whole: Judged[Model], step: Step, at: _At) -> None:
    """Judge the chain of parts at one shape, image by image."""
    assert run.gate is not None
    run.watcher.begin(f"check {at}")
    chain, ends = [part.subject for part in parts], whole.subject.outputs
    try:
        with timed(run.record, "checks"):
            traced = _traced(run, at, whole.subject)
            fed = replace(run.gate, samples=[_sample(at, traced)])
            (played,) = fed.play_chain(chain, whole.subject.inputs, ends)
            expected = of_each({name: traced[name] for name in ends}, at.images)
            got = of_each(_copied(played, ends), at.images)
    except CaptureError:
        raise
    except InputError as error:
        raise InputError(f"{at.place}: {at}: {error}") from error
    own = len(whole.granted)
    granted = (*whole.granted, *(grant for part in parts for grant in part.granted[own:]))
    samples = [_sample(at, each, number) for number, each in enumerate(expected, 1)]
    sized = replace(run, samples=samples, gate=replace(run.gate, samples=samples))
    judge(sized, step, Judged(whole.subject, granted=granted), got, f"the graph on {at}", ends, last=True)


def _traced(run: Run, at: _At, whole: Model) -> Tensors:
    """Return what the original computes of an image at a shape, and what it reads. Raises InputError where it can't."""
    image = picture_of(run.request, telling(run.samples, whole.outputs).id)
    source = open_source(at.of_source(run.recipe.source))
    ends = {*whole.inputs, *whole.outputs}
    if isinstance(source, HasBoundary):
        inner = {name for node in source.export().graph.node for name in node.output}
        source.set_boundary(sorted(ends & inner))
    traced = source.trace(source.canvas.fit(image))
    unknown = sorted(ends - traced.keys())
    if unknown:
        raise InputError(f"the original has no '{unknown[0]}', which an end of the graph could be compared with")
    return _copied(traced, ends)


def _copied(tensors: Tensors, names: Collection[str]) -> Tensors:
    """Return copies of some tensors: what ONNX Runtime hands out keeps all the memory alive that a run took."""
    return {name: np.array(tensors[name]) for name in names}


def _sample(at: _At, tensors: Tensors, number: int = 0) -> Sample:
    """Return tensors as the gate takes them; none is in a file."""
    name = f"image {number} of {at}" if number else str(at)
    return Sample(name, Path(), None, height=at.shape[-2], width=at.shape[-1], computed=dict(tensors))
