"""All exact passes as one, and a recipe's passes as `apply` takes them, without the report and what it measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from graphsurgery.capture.samples import InputImage
from graphsurgery.capture.take import capture
from graphsurgery.gate.described_outputs import DescribedOutputs
from graphsurgery.gate.gate import Gate
from graphsurgery.graph.model import Model
from graphsurgery.parts.folder import OutputFolder
from graphsurgery.pipeline import apply as pipeline
from graphsurgery.pipeline.run import Run
from graphsurgery.recipe.load import load_recipe
from graphsurgery.report.run_record import Record, Step
from graphsurgery.rewrite import Editor, ModelPass, Pass, apply_passes, registry
from graphsurgery.sources import HasBoundary, open_source

FIRST = ("freeze-shapes", "drop-preprocessing", "simplify")  # they make way for the others


@dataclass(frozen=True)
class EveryPass(ModelPass):
    """All exact passes there are, one after another, behind those of `first`."""

    name = "every-pass"
    effect = "exact"

    first: tuple[str, ...] = ()

    def rewrite(self, model: ModelProto, edit: Editor) -> ModelProto:
        found = registry.discover()
        return apply_passes([found.get(name)() for name in (*self.first, *exact_passes())], Model(model)).model.proto


def exact_passes() -> list[str]:
    """Return the names of the exact passes that need no options and keep outputs, but for the first, by alphabet."""
    found = registry.discover()
    return [
        name
        for name in found.names()
        if found.get(name).effect == "exact"
        and name not in FIRST
        and found.get(name).keeps_outputs
        and all(
            option.default is not dataclasses.MISSING or option.default_factory is not dataclasses.MISSING
            for option in dataclasses.fields(found.get(name))
        )
    ]


def steps_of(
    recipe: str,
    images: Iterable[InputImage],
    folder: Path,
    overrides: Sequence[str] = (),
    passes: Sequence[type[Pass]] = (EveryPass,),
) -> list[Step]:
    """Return what became of the passes of a recipe, which may name `passes` too. Raises Difference as `apply` does."""
    registered = registry.discover()
    for each in passes:
        registered.add(each)
    loaded = load_recipe(recipe, overrides, registry=registered)
    source = open_source(loaded.source)
    if isinstance(source, HasBoundary) and loaded.partition is not None:
        source.set_boundary(pipeline.boundary_tensors(loaded, source))
    taken = capture(source, images, folder / "model_io").samples
    record = Record(source.describe())
    described = DescribedOutputs(source.detections, tuple(source.output_names))
    gate = Gate(taken, loaded.tolerances, loaded.grants, source.row_groups, described)
    with OutputFolder(folder / "parts") as output:
        run = Run(loaded, source, taken, gate, record, calibration=taken, scratch=folder / "scratch")
        pipeline.apply(run, output)
    return record.passes
