"""The samples that a run compares with: those that are there if they will do, else captured from the original model."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from graphsurgery.capture import samples as captures
from graphsurgery.capture import take
from graphsurgery.errors import CaptureError, InputError
from graphsurgery.files.commit import Draft, edition, writing
from graphsurgery.images.files import load_image, read_images
from graphsurgery.pipeline import apply as pipeline
from graphsurgery.pipeline.options import Options
from graphsurgery.pipeline.run import RunWatcher
from graphsurgery.recipe.load import Recipe
from graphsurgery.report.run_record import Record
from graphsurgery.sources import HasBoundary, Source


def captured(
    recipe: Recipe, source: Source, options: Options, watcher: RunWatcher, record: Record | None = None
) -> captures.Capture:
    """Return the samples that are asked for: those in `options.model_io`, captured first where they aren't there.

    What is there is compared with what the recipe and the options ask for now, and captured anew where it differs,
    which `record` tells. Raises CaptureError when the folder holds those of another model, InputError for images that
    can't be read.
    """
    folder = options.model_io
    seen = edition(folder, captures.INDEX)
    found, asked, reason = _there(recipe, source, options, watcher)
    if found is not None:
        return _note(record, found, "used again")
    with _locked(folder, watcher) as draft:
        if edition(folder, captures.INDEX) != seen:  # another run captured, and this one waited for it
            found, asked, reason = _there(recipe, source, options, watcher)
            if found is not None:
                return _note(record, found, "used again")
        watcher.begin("capture" if reason is None else f"capture anew: {reason}")
        taken = _take(recipe, source, asked, options, watcher, draft, record, overwrite=reason is not None)
    return _note(record, taken, "captured" if reason is None else "captured anew", reason)


def _there(
    recipe: Recipe, source: Source, options: Options, watcher: RunWatcher
) -> tuple[captures.Capture | None, captures.Request, str | None]:
    """Return the capture that is there if it will do, what is asked for, and why it won't do, if one is there."""
    if not captures.exists(options.model_io):
        return None, _asked_for(recipe, options), None
    earlier = captures.Capture.open(options.model_io)
    earlier.require_model(source.describe())
    asked = _asked_for(recipe, options, earlier.request)
    watcher.begin("compare the capture with what is asked for")
    reason = _lacks(earlier, recipe, source, asked)
    if reason is None:
        return replace(earlier, samples=earlier.samples[: asked.samples]), asked, None
    return None, asked, reason


@contextlib.contextmanager
def _locked(folder: Path, watcher: RunWatcher) -> Iterator[Draft]:
    """Yield a draft of what is captured into `folder`, as soon as no other run captures there."""
    try:
        with writing(folder, math.inf, lambda owner: watcher.begin(f"wait for {owner} which captures")) as draft:
            yield draft
    except OSError as error:
        raise CaptureError(f"{folder}: can't be written ({error}); make room, or name another folder") from error


def _lacks(earlier: captures.Capture, recipe: Recipe, source: Source, asked: captures.Request) -> str | None:
    """Say what `earlier` lacks of what is asked for, None where it lacks nothing."""
    try:
        boundary = _boundary(recipe, source)
    except InputError:  # the run comes to the same place, after the gate, and then tells which pass is at fault
        boundary = ()
    gone = asked.images is not None and not Path(asked.images).exists()
    if gone and earlier.request is not None and earlier.request.covers(asked):
        return earlier.lacks(source.describe(), boundary, ())  # there are no pixels to compare with
    return earlier.lacks(source.describe(), boundary, _pictures(asked)[1])


def _note(
    record: Record | None, capture: captures.Capture, verdict: str, reason: str | None = None
) -> captures.Capture:
    if record is not None:
        record.capture = {
            "folder": str(capture.folder),
            "verdict": verdict,
            "reason": reason,
            "samples": len(capture.samples),
            "request": None if capture.request is None else asdict(capture.request),
        }
    return capture


def capture_samples(
    recipe: Recipe, source: Source, options: Options, watcher: RunWatcher, *, overwrite: bool = False
) -> captures.Capture:
    """Run the original model on images and write what flows through it to `options.model_io`.

    What `options` say beside the recipe is what later runs go by, unless they say otherwise.
    """
    given = {"images": options.images, "samples": options.max_samples}
    by_hand = tuple(name for name, value in given.items() if value is not None)
    asked = replace(_asked_for(recipe, options), by_hand=by_hand)
    with _locked(options.model_io, watcher) as draft:
        return _take(recipe, source, asked, options, watcher, draft, overwrite=overwrite)


def _asked_for(recipe: Recipe, options: Options, earlier: captures.Request | None = None) -> captures.Request:
    """Return what to capture: what the options say, else what `earlier` was told by hand, else what the recipe says."""
    plan = recipe.capture
    asked = captures.Request(_absolute(plan.images), _absolute(plan.annotations), plan.samples)
    if options.images is not None:
        asked = replace(asked, images=_absolute(options.images), annotations=_absolute(options.annotations))
    elif earlier is not None and "images" in earlier.by_hand:
        asked = replace(asked, images=earlier.images, annotations=earlier.annotations, by_hand=("images",))
    if options.annotations is not None:
        if asked.images is None:
            raise InputError(f"--annotations {options.annotations}: says nothing without --images, the folder it is of")
        asked = replace(asked, annotations=_absolute(options.annotations))
    if options.max_samples is not None:
        asked = replace(asked, samples=options.max_samples)
    elif earlier is not None and "samples" in earlier.by_hand:
        asked = replace(asked, samples=earlier.samples, by_hand=(*asked.by_hand, "samples"))
    return asked


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _take(
    recipe: Recipe,
    source: Source,
    asked: captures.Request,
    options: Options,
    watcher: RunWatcher,
    draft: Draft,
    record: Record | None = None,
    *,
    overwrite: bool = False,
) -> captures.Capture:
    watcher.begin("capture")
    begin = time.perf_counter()
    asked = replace(asked, boundary=_boundary(recipe, source))
    total, pictures = _pictures(asked)
    capture = take.capture(
        source,
        pictures,
        options.model_io,
        lambda done, _: watcher.advance(done, total),
        overwrite=overwrite,
        request=asked,
        draft=draft,
    )
    if isinstance(source, HasBoundary):
        source.set_boundary(asked.boundary)  # which lets go of its session, and of all weights that it has mapped
    if record is not None:
        record.spent("capture", time.perf_counter() - begin)
    return capture


def _boundary(recipe: Recipe, source: Source) -> tuple[str, ...]:
    """Return the tensors that a source without modules to hook has to be told to capture, and tell it."""
    if not isinstance(source, HasBoundary):
        return ()
    names = tuple(pipeline.boundary_tensors(recipe, source))
    source.set_boundary(names)
    return names


def _pictures(asked: captures.Request) -> tuple[int, Iterable[captures.InputImage]]:
    """Return how many images are asked for, and each as it is needed. Raises InputError where they aren't there."""
    if asked.images is None:
        return asked.samples, take.embedded_samples(asked.samples)
    annotations = None if asked.annotations is None else Path(asked.annotations)
    files = read_images(Path(asked.images), annotations, asked.samples)
    return len(files), (captures.InputImage(file.id, load_image(file.path)) for file in files)
