"""What surrounds the pipeline: samples and AP, latency and report, and the folder that is published."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from graphsurgery.capture.samples import Sample
from graphsurgery.debugging import failure
from graphsurgery.errors import Difference, InputError, MissingTool
from graphsurgery.evaluation.coco import require_pycocotools
from graphsurgery.evaluation.columns import PARTS
from graphsurgery.files.commit import writing
from graphsurgery.files.temporary import reserved
from graphsurgery.gate.described_outputs import DescribedOutputs
from graphsurgery.gate.gate import Gate
from graphsurgery.graph.model import Model
from graphsurgery.parts.folder import RECORD, REPORT, OutputFolder
from graphsurgery.parts.manifest import Manifest
from graphsurgery.pipeline import apply as pipeline
from graphsurgery.pipeline import precision, variants
from graphsurgery.pipeline.apply import failed_folder
from graphsurgery.pipeline.captured_samples import captured
from graphsurgery.pipeline.certify import Certifier
from graphsurgery.pipeline.compiled_parts import compile_all
from graphsurgery.pipeline.options import Options
from graphsurgery.pipeline.run import Run, RunWatcher, timed
from graphsurgery.recipe.load import Recipe, Variant
from graphsurgery.report import html
from graphsurgery.report.pictures import Picture, sample_pictures
from graphsurgery.report.run_record import Record
from graphsurgery.runtime.detector import Detector
from graphsurgery.runtime.latency import measure_latency, synthetic_image
from graphsurgery.search.run import runner
from graphsurgery.sources import HasBoundary, Source, open_source

_TIMED_RUNS, _TIMED_SECONDS = 3, 5.0


def apply_recipe(recipe: Recipe, options: Options, record: Record, watcher: RunWatcher) -> Path:
    """Take the recipe's model all the way and return the folder that now holds its parts.

    `record` is filled as the run goes, so that it tells how far a failed one came. Raises Difference, InputError or
    MissingTool; then the output folder is what it was before, unless the error is of a variant alone, and says so. What
    a Difference ends leaves its record and its report in a folder of its own, beside the output folder.
    """
    try:
        _apply(recipe, options, record, watcher)
    except Difference as error:
        record.error = {"kind": type(error).__name__, "message": str(error), "hint": error.hint}
        _leave_record(record, failed_folder(options.out))
        raise
    made = {each.name for each in record.variants if each.verdict == "passed"}
    compile_all(recipe, options.out, options.model_io, made, record, watcher, tried=options.check)
    return options.out


def _apply(recipe: Recipe, options: Options, record: Record, watcher: RunWatcher) -> None:
    begin = time.perf_counter()
    wanted = variants.chosen(recipe, options.variants)
    named = options.variants is not None and variants.ALL not in options.variants
    variants.require_searchable(recipe, wanted, required=named)
    if recipe.measured is not None:
        require_pycocotools()
    with OutputFolder(options.out) as output, contextlib.ExitStack() as stack:
        watcher.begin("open the source")
        source = open_source(recipe.source)
        record.source = source.describe()
        evaluation = None
        if recipe.measured is not None:
            begun = precision.begun(recipe.measured, source, recipe.source, len(wanted), options.workers, watcher)
            evaluation = stack.enter_context(begun)
        runs = _is_run(recipe, source, options, wanted)
        capture = captured(recipe, source, options, watcher, record) if runs else None
        calibration = () if capture is None else capture.samples
        samples = calibration[: recipe.checked_samples]
        described = DescribedOutputs(source.detections, tuple(source.output_names))
        gate = Gate(samples, recipe.tolerances, recipe.grants, source.row_groups, described) if options.check else None
        run = Run(
            recipe,
            source,
            samples,
            gate,
            record,
            watcher,
            calibration=calibration,
            certifier=Certifier(recipe.target),
            request=None if capture is None else capture.request,
            external_from=options.external_from,
            scratch=stack.enter_context(reserved(options.out.resolve())),
        )
        made = None if evaluation is None else evaluation.begin_parts
        drop = None if evaluation is None else partial(evaluation.drop, watcher=watcher)
        doing = runner(options.workers, options.scheduler) if any(each.search for each in wanted) else None
        searching = None if doing is None else variants.Searching(doing, variants.search_folder(options.out), drop)
        manifest = make_parts(run, wanted, output, required=named, made=made, searching=searching)
        fallback = options.allow_fallback
        manifest = leave_out_unplayable(run, manifest, output, required=named, allow_fallback=fallback)
        placed = {variant.name: variant.devices for variant in record.variants}
        pictures: list[Picture] = []
        if evaluation is not None:
            with timed(record, "evaluate"):
                record.evaluation = evaluation.finish(output.work, watcher, placed, allow_fallback=fallback)
            variants.require_precision(recipe, record)
        if runs:
            with timed(record, "latency"):
                found = played(output.work, manifest, samples, watcher, placed, allow_fallback=fallback)
            record.latency, pictures = found
        record.spent("total", time.perf_counter() - begin)
        pipeline.write_record(record, output)
        watcher.begin("report")
        page = html.render(record.to_json(), manifest.model_dump(mode="json"), pictures)
        output.write_text(REPORT, page)
        output.publish()
    if failed := [variant for variant in record.variants if variant.verdict == "failed"]:
        raise InputError(f"variant '{failed[0].name}': {failed[0].reason}; the rest is in {options.out}")


def _is_run(recipe: Recipe, source: Source, options: Options, wanted: Sequence[Variant]) -> bool:
    """Whether anything is run: a large model of which nothing is compared is rewritten and cut, and no more.

    It is where a pass needs samples, or AP is to be measured. Its boundary keeps the names that its file has.
    """
    if options.check or recipe.measured is not None or not isinstance(source, HasBoundary):
        return True
    by_part = [*recipe.part_passes.values(), *(uses for variant in wanted for uses in variant.part_passes.values())]
    if any(use.pass_.needs_samples for uses in (recipe.passes, *by_part) for use in uses):
        return True
    return Model(source.export(), source.folder).size < options.external_from


def make_parts(
    run: Run,
    wanted: Sequence[Variant],
    output: OutputFolder,
    *,
    required: bool,
    made: Callable[[Path], None] | None = None,
    searching: variants.Searching | None = None,
) -> Manifest:
    """Make the parts and the variants `wanted`, and return the manifest, which names those that were made.

    `made` is told the folder of the parts before the first variant is begun; `searching` looks for their options.
    """
    done = pipeline.apply(run, output)
    if made is not None:
        made(output.work)
    for variant in wanted:
        variants.make_variant(run, variant, done.parts, done.manifest, output, required, searching)
    passed = [variant.name for variant in run.record.variants if variant.verdict == "passed"]
    manifest = done.manifest.model_copy(update={"variants": passed})
    return output.write_manifest(manifest) if passed else manifest


def leave_out_unplayable(
    run: Run, manifest: Manifest, output: OutputFolder, *, required: bool, allow_fallback: bool = False
) -> Manifest:
    """Take the variants away that the devices of the recipe can't play, before anything is measured.

    A provider that leaves a node to the CPU, unless `allow_fallback`, or does not take a part at all, says so only when
    a session is made. The parts and the other variants are good all the same. Raises InputError where such a variant is
    `required`.
    """
    unplayable = []
    for variant in (variant for variant in run.record.variants if variant.verdict == "passed" and variant.devices):
        run.watcher.begin(f"open variant {variant.name}")
        try:
            chosen = variants.choices(variant.devices)
            Detector.load(output.work / variant.name, chosen, allow_fallback=allow_fallback)
        except (InputError, MissingTool) as error:
            variant.verdict, variant.reason = "failed", str(error)
            if required:
                raise InputError(f"variant '{variant.name}': {error}") from error
            shutil.rmtree(output.work / variant.name)
            unplayable.append(variant.name)
    if not unplayable:
        return manifest
    manifest = manifest.model_copy(update={"variants": [v for v in manifest.variants if v not in unplayable]})
    return output.write_manifest(manifest)


def played(
    folder: Path,
    manifest: Manifest,
    samples: Sequence[Sample],
    watcher: RunWatcher,
    placed: Mapping[str, Mapping[str, str]],
    *,
    allow_fallback: bool = False,
) -> tuple[dict[str, Any], list[Picture]]:
    """Return how long the parts and each variant take for an image, and what the parts find in `samples`.

    `placed` are the devices that the recipe has for a variant. `bench` looks more closely at times.
    """
    times, pictures = {}, []
    for name, place in ((PARTS, folder), *((name, folder / name) for name in manifest.variants)):
        watcher.begin(f"latency of {name}")
        detector = Detector.load(place, variants.choices(placed.get(name, {})), allow_fallback=allow_fallback)
        image = synthetic_image(detector.canvas)
        times[name] = measure_latency(
            detector, [image], _TIMED_RUNS, warmup=1, progress=watcher.advance, seconds=_TIMED_SECONDS
        )
        if name == PARTS:
            pictures = sample_pictures(samples, detector)
        del detector  # large weights are not held twice
    return times, pictures


def _leave_record(record: Record, folder: Path) -> None:
    """Put run.json and report.html beside the graphs that a failed pass left; nothing may hide the failure itself."""
    with contextlib.suppress(OSError, InputError), writing(folder) as draft:
        (draft.work / RECORD).write_text(json.dumps(record.to_json(), indent=1) + "\n", encoding="utf-8")
        (draft.work / REPORT).write_text(html.render(record.to_json(), None), encoding="utf-8")
        graphs_are_its_own = record.error is not None and str(folder) in record.error["hint"]
        draft.publish([RECORD, REPORT] if graphs_are_its_own else failure.files_of_run(folder), RECORD)
