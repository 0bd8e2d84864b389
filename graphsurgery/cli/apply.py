"""apply and capture: from a recipe to a folder of parts, and to the tensors that they are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import (
    AllowFallback,
    Annotations,
    ExternalData,
    Images,
    JsonFile,
    MaxSamples,
    ModelIo,
    Overrides,
    Plugins,
    RecipeName,
    Weights,
    bytes_of,
    model_io_of,
    recipe_of,
)
from graphsurgery.cli.screen import Display, err, screen_for, warn_of_joined_ranges, write_json
from graphsurgery.errors import InputError
from graphsurgery.report import terminal


@app.command("apply")
def apply_command(
    recipe: RecipeName,
    weights: Weights = None,
    images: Images = None,
    annotations: Annotations = None,
    max_samples: MaxSamples = None,
    set_: Overrides = None,
    plugin: Plugins = None,
    out_: Annotated[Path | None, typer.Option("--out", help="Folder for the parts; model/RECIPE if not given.")] = None,
    model_io: ModelIo = None,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Compare nothing. The parts may be wrong. A large model isn't even run.")
    ] = False,
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Make this variant of the recipe, or all; else those that take no request."),
    ] = None,
    no_variants: Annotated[bool, typer.Option("--no-variants", help="Make the parts only.")] = False,
    allow_fallback: AllowFallback = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that evaluate, and that search; as many as pay, if not given."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A dask cluster, tcp://host:8786, for the search of a variant."),
    ] = None,
    external_data: ExternalData = "1GB",
    json_: JsonFile = None,
) -> None:
    """Take a detector through a recipe, checking after every pass, and write its parts.

    Example: python -m graphsurgery apply shapes
    """
    from graphsurgery.parts.folder import REPORT
    from graphsurgery.pipeline.options import Options
    from graphsurgery.pipeline.whole_run import apply_recipe
    from graphsurgery.report.run_record import Record

    screen = screen_for(json_)
    loaded = recipe_of(recipe, weights, set_, plugin)
    folder = out_ or Path("model") / loaded.name
    if variant and no_variants:
        raise InputError("--variant and --no-variants contradict each other; give one of them")
    wanted = [] if no_variants else variant or None
    options = Options(
        folder,
        model_io or model_io_of(loaded.name),
        images,
        annotations,
        max_samples,
        not no_check,
        wanted,
        workers,
        allow_fallback,
        bytes_of(external_data),
        scheduler,
    )
    if no_check:
        err.print("[bold yellow]--no-check: nothing is compared. The parts may be wrong, and nobody will know.[/]")
    record = Record(loaded.to_json())
    try:
        with Display() as display:
            apply_recipe(loaded, options, record, display)
    finally:
        if record.capture is not None and record.capture["reason"] is not None:
            err.print(
                f"captured anew in {record.capture['folder']}: {record.capture['reason']}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        if record.passes:
            screen.print(terminal.steps_table("Passes", record.passes))
            screen.print()
        if record.checks:
            screen.print(terminal.steps_table("Checks", record.checks))
        for made in record.variants:
            screen.print()
            if made.search is not None:
                screen.print(terminal.search_table(made.name, made.search))
                screen.print()
            screen.print(terminal.variant_table(made))
        write_json(json_, record.to_json())
    screen.print()
    screen.print(terminal.parts_table(record.parts))
    supported = {"parts": record.support, **{made.name: made.support for made in record.variants if made.support}}
    if loaded.target is not None:
        title = f"What {loaded.target.target.name} takes, {loaded.target.precision}"
        screen.print()
        screen.print(terminal.support_table(title, supported))
    if record.evaluation:
        screen.print()
        screen.print(terminal.precision_table(record.evaluation))
    screen.print()
    steps = [("", step) for step in record.passes]
    steps += [(f"{made.name}, ", step) for made in record.variants for step in made.passes]
    for where, step in steps:
        warn_of_joined_ranges(step.details.get("joined", ()), f"{where}{step.part or 'the whole graph'}: ")
        for brought in step.brings:
            said = f"{where}{step.part}: {step.name} brings {brought}"
            err.print(said, style="yellow", markup=False, highlight=False, soft_wrap=True)
    weak = [step.name for step in (*record.passes, *record.checks) if step.verdict == "inconclusive"]
    if weak:
        err.print(f"[yellow]inconclusive: {', '.join(weak)}; the samples hold nothing to compare. Capture others.[/]")
    if no_check:
        err.print("[bold yellow]--no-check: nothing was compared.[/]")
    seconds = record.seconds
    count = sum(each.verdict == "passed" for each in record.variants)
    more = f" and {count} variant{'s' * (count != 1)}" if count else ""
    screen.print(
        f"{len(record.parts)} part{'s' * (len(record.parts) != 1)}{more} in {folder} after {seconds['total']:.0f} s "
        f"(surgery {seconds.get('surgery', 0):.1f} s), peak memory {record.to_json()['peak_rss_mb']:.0f} MB\n"
        + "".join(f"{name}: {what}\n" for name, what in record.compiled.items())
        + f"report: {folder / REPORT}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@app.command("capture")
def capture_command(
    recipe: RecipeName,
    images: Images = None,
    annotations: Annotations = None,
    max_samples: MaxSamples = None,
    weights: Weights = None,
    set_: Overrides = None,
    plugin: Plugins = None,
    model_io: ModelIo = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the samples that are there.")] = False,
    json_: JsonFile = None,
) -> None:
    """Run the original model on images and keep every boundary tensor as .npy.

    Example: python -m graphsurgery capture maskrcnn --weights random:0 --images photos --max-samples 3
    """
    from graphsurgery.pipeline.captured_samples import capture_samples
    from graphsurgery.pipeline.options import Options
    from graphsurgery.sources import open_source

    screen = screen_for(json_)
    loaded = recipe_of(recipe, weights, set_, plugin)
    folder = model_io or model_io_of(loaded.name)
    with Display() as display:
        source = open_source(loaded.source)
        options = Options(Path(), folder, images, annotations, max_samples)
        capture = capture_samples(loaded, source, options, display, overwrite=overwrite)
    rows = [[sample.id, str(len(sample.names))] for sample in capture.samples]
    screen.print(terminal.plain_table(f"Captured in {folder}", ["sample", "tensors"], rows))
    write_json(json_, {"folder": str(folder), "samples": {s.id: sorted(s.names) for s in capture.samples}})
