"""What the compilers of a recipe make of its parts, and of variants that ask for it, behind everything else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from graphsurgery.capture import samples as captures
from graphsurgery.compiling import Compiler
from graphsurgery.compiling.compile import FLOOR, compile_parts
from graphsurgery.compiling.compiled import Compiled
from graphsurgery.errors import MissingTool
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.pipeline.run import RunWatcher
from graphsurgery.recipe.load import Recipe
from graphsurgery.report.run_record import Record


def compile_all(
    recipe: Recipe,
    folder: Path,
    model_io: Path,
    variants: Collection[str],
    record: Record,
    watcher: RunWatcher,
    *,
    tried: bool,
) -> None:
    """Let each compiler of the recipe have the parts in `folder`, and of `variants` those that ask for it.

    What came of it goes into `record`. A tool that calibrates does so with what was captured in `model_io`; `tried`
    says that the parts were compared with the original at the shapes that a compiler leaves open. Raises Difference
    where what a tool computes keeps less than the recipe grants the pass `quantize`, and what `compile_parts` does.
    """
    for compiler in recipe.compilers:
        captured = captures.Capture.open(model_io).samples if compiler.runs().most else ()
        compiling = _Compiling(compiler, captured, _floor(recipe.grants), watcher)
        record.compiled[compiler.name] = compiling.of(folder, tried=tried)
        for variant in (each for each in recipe.variants if each.compile and each.name in variants):
            own = replace(compiling, floor=_floor({**recipe.grants, **variant.grants}))
            record.compiled[f"{compiler.name}, {variant.name}"] = own.of(folder / variant.name, tried=False)


@dataclass(frozen=True)
class _Compiling:
    """A compiler, what it calibrates with, and how many dB each output must keep."""

    compiler: Compiler
    captured: Sequence[captures.Sample]
    floor: float
    watcher: RunWatcher

    def of(self, folder: Path, *, tried: bool) -> str:
        """Let the compiler have the parts in `folder`, and say what came of it: its tool may not be here."""
        run = partial(
            compile_parts,
            folder,
            self.compiler,
            tried=tried,
            captured=self.captured,
            floor=self.floor,
            watcher=self.watcher,
        )
        try:
            place, compiled = run()
        except MissingTool as error:
            place, _ = run(run=False)
            return f"{place}, files alone: {error}"
        return f"{place}, compiled{_summary(compiled)}" if compiled.ran else str(place)


def _floor(grants: Mapping[str, Tolerances]) -> float:
    """Return how many dB compiled parts must keep: what the pass `quantize` is granted of every tensor."""
    granted = grants["quantize"].rules.get("*") if "quantize" in grants else None
    return FLOOR if granted is None or granted.sqnr is None else granted.sqnr


def _summary(compiled: Compiled) -> str:
    """Return what is left to the CPU, and the worst SQNR, where the tool says so."""
    if not compiled.reports:
        return ""
    left = sum(len(each.left) for each in compiled.reports.values())
    total = left + sum(each.accelerated for each in compiled.reports.values())
    worst = min((each.worst for each in compiled.reports.values() if each.worst is not None), default=None)
    numbers = "" if worst is None else f", {worst:.1f} dB at the worst output"
    return f": {total - left} of {total} operators on the accelerator{numbers}"
