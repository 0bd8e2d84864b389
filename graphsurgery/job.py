"""What surrounds the pipeline: tensors captured where there are none yet, AP measured, the folder published."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphsurgery import capture as captures
from graphsurgery import pipeline
from graphsurgery.errors import CaptureError, InputError
from graphsurgery.evaluate import coco_results, evaluate, read_annotations, require_pycocotools
from graphsurgery.gate import Gate
from graphsurgery.images import Placed
from graphsurgery.model import Model
from graphsurgery.output import OutputFolder
from graphsurgery.pipeline import Run, Watcher
from graphsurgery.recipe import EvaluationPlan, Recipe
from graphsurgery.record import Record
from graphsurgery.runtime import Detector
from graphsurgery.sources import HasBoundary, Source, open_source


@dataclass(frozen=True)
class Options:
    """What the command line says beside the recipe; None leaves it to the recipe."""

    out: Path
    model_io: Path
    images: Path | None = None
    annotations: Path | None = None
    max_samples: int | None = None
    check: bool = True


def apply_recipe(recipe: Recipe, options: Options, record: Record, watcher: Watcher) -> Path:
    """Take the recipe's model all the way and return the folder that now holds its parts.

    `record` is filled as the run goes, so that it tells how far a failed one came. Raises Difference, InputError or
    MissingTool; then the output folder is what it was before.
    """
    begin = time.perf_counter()
    if recipe.evaluate is not None:
        require_pycocotools()
    with OutputFolder(options.out) as output:
        source = open_source(recipe.source)
        record.source = source.describe()
        capture = captured(recipe, source, options, watcher, record)
        samples = capture.samples[: options.max_samples]
        gate = Gate(samples, recipe.tolerances, recipe.grants) if options.check else None
        pipeline.apply(Run(recipe, source, samples, gate, record, watcher), output)
        if recipe.evaluate is not None:
            watcher.begin("evaluate")
            started = time.perf_counter()
            detector = Detector.load(output.work)
            record.evaluation = average_precision(source, detector, recipe.evaluate, watcher)
            record.spent("evaluate", time.perf_counter() - started)
            del detector
        record.spent("total", time.perf_counter() - begin)
        pipeline.write_record(record, output)
        output.publish()
    return options.out


def captured(
    recipe: Recipe, source: Source, options: Options, watcher: Watcher, record: Record | None = None
) -> captures.Capture:
    """Return the samples in `options.model_io`, capturing them first where there are none.

    Raises CaptureError when the folder holds those of another model, or when images are given for a folder that
    has samples already.
    """
    folder = options.model_io
    if captures.exists(folder):
        if options.images is not None:
            raise CaptureError(f"{folder}: holds samples already; remove it, or leave --images out to use them")
        capture = captures.Capture.open(folder)
        capture.require_source(source.describe())
        return capture
    return capture_samples(recipe, source, options, watcher, record)


def capture_samples(
    recipe: Recipe,
    source: Source,
    options: Options,
    watcher: Watcher,
    record: Record | None = None,
    *,
    overwrite: bool = False,
) -> captures.Capture:
    """Run the original model on images and write what flows through it to `options.model_io`."""
    watcher.begin("capture")
    begin = time.perf_counter()
    if isinstance(source, HasBoundary):
        source.set_boundary(pipeline.boundary_tensors(recipe, Model(source.export(), source.folder)))
    images = options.images or recipe.capture.images
    count = options.max_samples or recipe.capture.samples
    if images is not None:
        annotations = options.annotations or (None if options.images else recipe.capture.annotations)
        files = captures.read_images(images, annotations, count)
        total = len(files)
        pictures: Iterable[Any] = ((file.id, captures.load_image(file.path)) for file in files)
    else:
        if options.annotations is not None:
            raise InputError(f"--annotations {options.annotations}: says nothing without --images, the folder it is of")
        total, pictures = count, captures.embedded_samples(count)
    capture = captures.capture(
        source, pictures, options.model_io, lambda done, _: watcher.advance(done, total), overwrite=overwrite
    )
    if record is not None:
        record.spent("capture", time.perf_counter() - begin)
    return capture


def average_precision(source: Source, detector: Detector, plan: EvaluationPlan, watcher: Watcher) -> dict[str, Any]:
    """Measure AP of the original model on the canvas and of the parts, on the same first images.

    Raises InputError for images or annotations that can't be used, MissingTool without pycocotools.
    """
    with _evaluation_images(plan) as (images, annotations):
        dataset = read_annotations(annotations)
        files = captures.read_images(images, annotations, plan.samples)
        columns: dict[str, Callable[[Placed], Mapping[str, Any]]] = {
            "original": lambda placed: source.detect(placed.input),
            "parts": detector.on_canvas,
        }
        results: dict[str, list[dict[str, Any]]] = {column: [] for column in columns}
        seconds = dict.fromkeys(columns, 0.0)
        kinds: list[str] = []
        for done, file in enumerate(files, start=1):
            placed = detector.canvas.fit(captures.load_image(file.path))
            for column, detect in columns.items():
                begin = time.perf_counter()
                found = detect(placed)
                seconds[column] += time.perf_counter() - begin
                kinds = _iou_types(found)
                restored = placed.restore(found, paste=False)
                results[column] += coco_results(int(file.id), restored, size=placed.original)
            watcher.advance(done, len(files))
        ids = [int(file.id) for file in files]
        scores = {column: evaluate(dataset, found, kinds, ids) for column, found in results.items()}
    return {
        "samples": len(files),
        "ap": {kind: {column: scores[column][kind].ap for column in results} for kind in kinds},
        "lines": {kind: {column: dict(scores[column][kind].lines) for column in results} for kind in kinds},
        "seconds_per_image": {column: total / max(len(files), 1) for column, total in seconds.items()},
    }


def _iou_types(detections: Mapping[str, Any]) -> list[str]:
    extra = [kind for name, kind in (("masks", "segm"), ("keypoints", "keypoints")) if name in detections]
    return ["bbox", *extra]


@contextmanager
def _evaluation_images(plan: EvaluationPlan) -> Iterator[tuple[Path, Path]]:
    """Yield the folder of images and their annotations; the demo's are drawn for the occasion."""
    if plan.images is not None and plan.annotations is not None:
        if not plan.images.is_dir():
            raise InputError(f"{plan.images}: no such folder of images; correct evaluate.images in the recipe")
        yield plan.images, plan.annotations
        return
    from graphsurgery.demo import shapes

    with tempfile.TemporaryDirectory(prefix="graphsurgery-") as folder:
        annotations = shapes.write_dataset(Path(folder), plan.samples, shapes.VAL_SEED)
        yield annotations.parent / "images", annotations
