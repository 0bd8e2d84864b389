"""run: what a folder of parts finds in an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import JsonFile
from graphsurgery.cli.screen import save, screen_for, write_json
from graphsurgery.report import terminal


@app.command("run")
def run_command(
    folder: Annotated[Path, typer.Argument(help="A folder of parts that 'apply' wrote.")],
    image: Annotated[Path, typer.Option(help="The image to detect objects in.")],
    out_: Annotated[
        Path | None, typer.Option("--out", help="Where the picture goes; the image's name + .detections.png.")
    ] = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Draw only detections with at least this score.")] = 0.5,
    device: Annotated[
        list[str] | None, typer.Option(metavar="DEVICE=PROVIDER", help="For example npu=vitisai. Repeatable.")
    ] = None,
    json_: JsonFile = None,
) -> None:
    """Play the parts on an image; write the detections as JSON and draw them on the image.

    Example: python -m graphsurgery run model/shapes --image photo.png
    """
    from graphsurgery.drawing import draw_detections
    from graphsurgery.evaluate import describe_detections
    from graphsurgery.image_files import load_image
    from graphsurgery.providers import parse_devices
    from graphsurgery.runtime import Detector

    screen = screen_for(json_)
    picture = load_image(image)
    detector = Detector.load(folder, parse_devices(device or []))
    found = detector(picture)
    detections = describe_detections(found, detector.manifest.classes)
    drawn = draw_detections(picture, found, detector.manifest.classes, score)
    target = out_ or image.with_name(f"{image.stem}.detections.png")
    save(target, lambda path: drawn.save(path, format="PNG"))
    results = Path(json_) if json_ and json_ != "-" else target.with_suffix(".json")
    payload = {"image": str(image), "folder": str(folder), "detections": detections, "seconds": detector.seconds}
    write_json("-" if json_ == "-" else str(results), payload)
    shown = [found for found in detections if found["score"] is not None and found["score"] >= score]
    screen.print(terminal.detections_table(f"{len(shown)} detections", shown[:20]))
    files = [target] if json_ == "-" else [results, target]
    screen.print("\n" + "\n".join(map(str, files)), highlight=False, markup=False, soft_wrap=True)
