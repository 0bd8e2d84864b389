"""evaluate: COCO average precision of the original, of its parts and of their variants, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import AllowFallback, Devices, JsonFile, Plugins, compiled_column, recipe_of
from graphsurgery.cli.screen import Display, err, screen_for, write_json
from graphsurgery.errors import InputError, MissingTool
from graphsurgery.report import terminal

if TYPE_CHECKING:
    from graphsurgery.evaluation.columns import Column, OriginalColumn, PartsColumn
    from graphsurgery.evaluation.measure import Measured
    from graphsurgery.evaluation.workers import Runner
    from graphsurgery.parts.ap_protocol import ApProtocol
    from graphsurgery.parts.manifest import Manifest
    from graphsurgery.recipe.load import Recipe


@app.command("evaluate")
def evaluate_command(
    target: Annotated[str, typer.Argument(metavar="FOLDER|RECIPE", help="Parts that 'apply' wrote, or their recipe.")],
    images: Annotated[Path | None, typer.Option(help="A folder of images; the demo's own are drawn.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="COCO annotations of these images.")] = None,
    max_samples: Annotated[int | None, typer.Option(min=1, help="The first so many images, by ascending id.")] = None,
    device: Devices = None,
    allow_fallback: AllowFallback = False,
    results: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="What a compiler's tool computed of these images. Repeatable."),
    ] = None,
    per_category: Annotated[bool, typer.Option("--per-category", help="Also show the AP of each category.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; as many as pay, if not given. The result is the same.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A dask cluster, tcp://host:8786, in place of --workers.")
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of each worker; the last bits of a result depend on it.")
    ] = 1,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Do without images that can't be read.")] = False,
    original: Annotated[
        bool | None,
        typer.Option("--original/--no-original", help="With the torch model; if not given, where it can be had."),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="The original's weights file, where it isn't found.")] = None,
    plugin: Plugins = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what an earlier run found.")] = False,
    out_: Annotated[
        Path | None, typer.Option("--out", help="Folder for results; evaluation/NAME beside the parts if not given.")
    ] = None,
    json_: JsonFile = None,
) -> None:
    """Measure COCO AP of the original, the parts and their variants. An interrupted run goes on where it stopped.

    Example: python -m graphsurgery evaluate model/shapes --max-samples 20
    """
    from graphsurgery.evaluation.coco import require_pycocotools
    from graphsurgery.evaluation.dataset import draw_shapes, open_dataset
    from graphsurgery.evaluation.measure import BadImages, measure, missing
    from graphsurgery.evaluation.store import FileStore

    screen = screen_for(json_)
    if scheduler is not None and workers is not None:
        raise InputError("--workers and --scheduler exclude each other: the cluster's workers are its own")
    require_pycocotools()
    devices = _devices(device or [])
    folder, recipe = _target(target, plugin)
    manifest, parts = _parts(folder, devices, allow_fallback)
    images, annotations, samples = _images(images, annotations, max_samples, recipe, manifest)
    place = out_ or folder.resolve().parent / "evaluation" / folder.resolve().name
    store = FileStore(place)
    if images is None or annotations is None:
        images, annotations = draw_shapes(place / "drawn", samples or 100)
    dataset = open_dataset(images, annotations, samples, skip_bad=skip_bad)

    columns: list[Column] = [*parts, *(compiled_column(each, folder) for each in results or ())]
    first, left_out, required = None, None, bool(original or weights)
    if original is not False:
        try:
            first = _original(manifest, folder, recipe, weights)
        except (InputError, MissingTool) as error:
            if required:
                raise
            left_out = str(error)
    if restart:
        for column in (*columns, *([first] if first else ())):
            store.forget(column)

    left = missing(columns if first is None else [first, *columns], dataset, store, threads)

    def measured_of(columns: Sequence[Column]) -> Measured:
        with _runner(scheduler, workers, len(left), all(column.on_cpu for column in parts)) as runner:
            return measure(
                columns,
                dataset,
                display,
                classes=manifest.classes,
                detections=manifest.postprocessing,
                labels=manifest.labels,
                protocol=_protocol(recipe, manifest),
                threads=threads,
                store=store,
                runner=runner,
                results=place,
                per_category=per_category,
                skip_bad=skip_bad,
            )

    with Display() as display:
        try:
            measured = measured_of(columns if first is None else [first, *columns])
        except BadImages as error:
            _print_bad(error.images, screen)
            raise
        except (InputError, MissingTool):
            # whoever computes opens the original, which takes seconds; here only what it can't be opened for is asked
            left_out = None if first is None or required else _why_closed(first, threads)
            if left_out is None:
                raise
            measured = measured_of(columns)
            computed = sum(task.column is not first for task in left)  # some of them by the first try
            reused = measured.computed + measured.reused - computed
            measured = replace(measured, computed=computed, reused=reused)
    write_json(json_, measured.evaluation)
    _print_evaluation(measured.evaluation, screen)
    if left_out is not None:
        err.print(f"without the original: {left_out}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    said = f"{measured.computed} computed, {measured.reused} there from before"
    if not measured.computed:
        said = f"nothing to compute: all {measured.reused} were there from before; --restart computes them anew"
    screen.print(f"{said}\n{place / 'summary.json'}", highlight=False, markup=False, soft_wrap=True)


def _devices(choices: list[str]) -> dict[str, str]:
    """Check --device options and return them as they are written, which a column keeps."""
    from graphsurgery.devices.choices import parse_devices

    parse_devices(choices)
    return {device: provider for device, _, provider in (choice.partition("=") for choice in choices)}


def _target(target: str, plugins: list[Path] | None) -> tuple[Path, Recipe | None]:
    """Return the folder of parts, and the recipe where its name was given."""
    from graphsurgery.rewrite.registry import Registry

    folder = Path(target)
    if folder.is_dir():
        registry = Registry()  # no pass is needed, so none is imported; but the parts may hold a plug-in's operators
        for file in plugins or []:
            registry.add_plugin(file)
        return folder, None
    try:
        recipe = recipe_of(target, None, None, plugins)
    except InputError as error:
        raise InputError(f"{target}: neither a folder of parts nor a recipe ({error})") from error
    made = Path("model") / recipe.name
    if not made.is_dir():
        raise InputError(f"{made}: there are no parts yet; make them: python -m graphsurgery apply {target}")
    return made, recipe


def _parts(folder: Path, devices: Mapping[str, str], allow_fallback: bool) -> tuple[Manifest, list[PartsColumn]]:
    """Return the manifest of a folder, and the columns of its parts and of their variants, all of one run."""
    from graphsurgery.evaluation.columns import PARTS, PartsColumn, variants
    from graphsurgery.files.commit import read_whole
    from graphsurgery.parts.manifest import FILE_NAME, Manifest

    def described() -> tuple[Manifest, list[PartsColumn]]:
        manifest = Manifest.read(folder)
        places = {PARTS: folder, **{name: folder / name for name in variants(folder, manifest)}}
        return manifest, [
            PartsColumn.of(name, place, devices, allow_fallback=allow_fallback) for name, place in places.items()
        ]

    manifest, parts = read_whole(folder, FILE_NAME, described)
    manifest.require_detections(folder)
    return manifest, parts


def _images(
    images: Path | None, annotations: Path | None, samples: int | None, recipe: Recipe | None, manifest: Manifest
) -> tuple[Path | None, Path | None, int | None]:
    """Return images, annotations and how many: what the options say, else the recipe; None for images to be drawn."""
    if (images is None) != (annotations is None):
        raise InputError("--images and --annotations: give both, the images and the COCO file that names them")
    if images is not None:
        return images, annotations, samples
    plan = recipe.evaluate if recipe is not None else None
    if plan is not None and plan.images is not None:
        return plan.images, plan.annotations, samples or plan.samples
    if manifest.source.get("kind") != "demo":
        raise InputError("give the images with --images, and what is in them with --annotations, a COCO file")
    return None, None, samples or (plan.samples if plan is not None else 100)


def _protocol(recipe: Recipe | None, manifest: Manifest) -> ApProtocol | None:
    """Return how AP is measured: what the recipe says, else what it said when the parts were made."""
    said = None if recipe is None or recipe.evaluate is None else recipe.evaluate.protocol
    return said or manifest.evaluation


def _original(manifest: Manifest, folder: Path, recipe: Recipe | None, weights: str | None) -> OriginalColumn:
    from graphsurgery.evaluation.columns import OriginalColumn

    places = [folder, folder.resolve().parent, Path()]
    if recipe is not None:
        places.insert(0, recipe.source.folder)
    return OriginalColumn.of(manifest, places, weights)


def _why_closed(column: Column, threads: int) -> str | None:
    """Return why a column can't be opened here, None if it can."""
    try:
        column.open(threads)
    except (InputError, MissingTool) as error:
        return str(error)
    return None


@contextmanager
def _runner(scheduler: str | None, workers: int | None, tasks: int, on_cpu: bool) -> Iterator[Runner]:
    from graphsurgery.evaluation.cluster import OnCluster
    from graphsurgery.evaluation.workers import InProcess, WorkerPool, sensible_workers

    count = min(workers or (sensible_workers(tasks) if on_cpu else 1), max(tasks, 1))
    if scheduler is not None:
        yield OnCluster(scheduler)
    elif count == 1:
        yield InProcess()
    else:
        with WorkerPool(count) as pool:
            yield pool


def _print_evaluation(evaluation: Mapping[str, Any], screen: terminal.Screen) -> None:
    for kind, lines in evaluation["lines"].items():
        published = evaluation.get("published", {}).get(kind)
        shown = lines if published is None else {**lines, "published": published}
        _print_numbers(f"{kind} on {evaluation['samples']} images", "line", shown, screen)
    for kind, lines in evaluation.get("per_category", {}).items():
        _print_numbers(f"{kind} AP by category", "category", lines, screen)
    if evaluation.get("skipped"):
        rows = [[str(each["image"]), each["file"], each["reason"]] for each in evaluation["skipped"]]
        screen.print(terminal.plain_table("Left out", ["image", "file", "reason"], rows))
        screen.print()


def _print_numbers(
    title: str, first: str, columns: Mapping[str, Mapping[str, float | None]], screen: terminal.Screen
) -> None:
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [[name, *(_number(column.get(name)) for column in columns.values())] for name in names]
    screen.print(terminal.plain_table(title, [first, *columns], rows))
    screen.print()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _print_bad(images: Any, screen: terminal.Screen) -> None:
    rows = [[str(each.id), str(each.path), each.reason] for each in images]
    screen.print(terminal.plain_table("Can't be read", ["image", "file", "reason"], rows))
    screen.print()
