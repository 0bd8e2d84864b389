"""report: the HTML page of a run, made again from what the run left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import model_io_of
from graphsurgery.cli.screen import err, out, save
from graphsurgery.errors import GraphSurgeryError


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(help="A folder that 'apply' wrote, or one that it left as .failed.")],
    out_: Annotated[
        Path | None, typer.Option("--out", help="Where the page goes; FOLDER/report.html if not given.")
    ] = None,
    model_io: Annotated[
        Path | None, typer.Option(help="Captured tensors to draw; model/model_io/RECIPE, if that is of this model.")
    ] = None,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Draw no samples, which takes as long as to play the parts on them.")
    ] = False,
) -> None:
    """Write report.html again, from run.json and manifest.json in a folder.

    Example: python -m graphsurgery report model/shapes
    """
    from graphsurgery.files.commit import read_whole
    from graphsurgery.parts.folder import REPORT
    from graphsurgery.parts.manifest import FILE_NAME, Manifest
    from graphsurgery.report import html
    from graphsurgery.report.run_file import read_run

    def one_run() -> tuple[Mapping[str, Any], Mapping[str, Any] | None, list[Any] | GraphSurgeryError]:
        run = read_run(folder)
        manifest = Manifest.read(folder).model_dump(mode="json") if (folder / FILE_NAME).exists() else None
        try:
            return run, manifest, [] if no_pictures or manifest is None else _pictures(folder, run, model_io)
        except GraphSurgeryError as error:
            return run, manifest, error

    run, manifest, pictures = read_whole(folder, FILE_NAME, one_run)
    if isinstance(pictures, GraphSurgeryError):
        if model_io is not None:
            raise pictures
        err.print(f"no pictures: {pictures}", markup=False, highlight=False, soft_wrap=True, style="yellow")
        pictures = []
    page = html.render(run, manifest, pictures)
    target = out_ or folder / REPORT
    save(target, lambda path: path.write_text(page, encoding="utf-8"))
    out.print(str(target), highlight=False, markup=False, soft_wrap=True)


def _pictures(folder: Path, run: Mapping[str, Any], model_io: Path | None) -> list[Any]:
    """Draw the samples; none where no folder was named and the usual one is not there."""
    from graphsurgery.capture import samples as captures
    from graphsurgery.report.pictures import sample_pictures
    from graphsurgery.runtime.detector import Detector

    place = model_io or model_io_of(str((run.get("recipe") or {}).get("name")))
    if model_io is None and not captures.exists(place):
        return []
    capture = captures.Capture.open(place)
    capture.require_source(run.get("source") or {})
    detector = Detector.load(folder)
    detector.manifest.require_detections(folder)
    return sample_pictures(capture.samples, detector)
