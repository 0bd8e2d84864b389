"""bench: how long the parts take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import AllowFallback, Devices, JsonFile, Operators, PartsFolder, PipelineDepth, Threads
from graphsurgery.cli.screen import Display, screen_for, write_json
from graphsurgery.errors import InputError
from graphsurgery.report import terminal

if TYPE_CHECKING:
    from graphsurgery.runtime.detector import Detector
    from graphsurgery.video.frame import Frame


@app.command("bench")
def bench_command(
    folder: PartsFolder,
    image: Annotated[
        Path | None, typer.Option(help="An image, or a folder of them; one is drawn if not given.")
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option(help="A video: its first --runs frames one after another, and overlapping, in turns."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Detect so many times.")] = 20,
    device: Devices = None,
    threads: Threads = None,
    pipeline: PipelineDepth = None,
    allow_fallback: AllowFallback = False,
    plugin: Operators = None,
    json_: JsonFile = None,
) -> None:
    """Measure what each part takes, and how many images a second go through.

    Example: python -m graphsurgery bench model/shapes --runs 50 --threads 2
    """
    from graphsurgery.devices.choices import parse_devices
    from graphsurgery.images.files import load_image, read_images
    from graphsurgery.runtime.detector import Detector
    from graphsurgery.runtime.latency import measure_latency, measure_pipeline, synthetic_image
    from graphsurgery.runtime.threads import Threads as ThreadCounts

    screen = screen_for(json_)
    counts = ThreadCounts.parse(threads or ())
    if video is not None:
        if image is not None:
            raise InputError(f"{folder}: give either --image or --video")
        read = _frames(video, runs)
        detector = Detector.load(
            folder, parse_devices(device or []), threads=counts, spin=False, allow_fallback=allow_fallback
        )
        _bench_video(detector, folder, video, read, pipeline or 1, json_)
        return
    pictures = [load_image(file.path) for file in read_images(image, max_samples=runs)] if image else None
    devices = parse_devices(device or [])
    detector = Detector.load(folder, devices, threads=counts, spin=pipeline is None, allow_fallback=allow_fallback)
    pictures = pictures or [synthetic_image(detector.canvas)]
    with Display() as display:
        display.begin("bench")
        latency = measure_latency(detector, pictures, runs, progress=display.advance)
        overlapping = None
        if pipeline is not None:
            display.begin(f"bench --pipeline {pipeline}")
            overlapping = measure_pipeline(detector, pictures, runs, pipeline, progress=display.advance)
    alone = 1000 / latency["total"]["mean_ms"]
    result: dict[str, Any] = {
        "folder": str(folder),
        "image": None if image is None else str(image),
        "runs": runs,
        "threads": counts.others,
        "threads_of_parts": dict(counts.parts),
        "devices": {device: choice.provider for device, choice in detector.devices.items()},
        "latency": {"parts": latency},
        "images_per_second": alone,
    }
    if overlapping is not None:
        result["pipeline"] = overlapping
    write_json(json_, result)
    screen.print(terminal.plain_table(f"Milliseconds per image, {runs} runs", _COLUMNS, _rows(detector, latency)))
    screen.print()
    lines = [f"one after another: {alone:.2f} images/s"]
    if overlapping is not None:
        took = overlapping["latency"]
        lines.append(
            f"--pipeline {pipeline}: {overlapping['images_per_second']:.2f} images/s, each after "
            f"{took['p50_ms']:.0f} ms (p90 {took['p90_ms']:.0f})"
        )
        lines.append("stages: " + " | ".join(" + ".join(stage) for stage in overlapping["stages"]))
    screen.print("\n".join(lines), highlight=False, markup=False)


_ROUNDS = 3


def _frames(video: Path, most: int) -> Callable[[], Iterator[Frame]]:
    """Return what reads the first frames of a file. Raises InputError for what is no video."""
    from graphsurgery.video.file import VideoFile

    file = VideoFile(video)

    def read() -> Iterator[Frame]:
        with closing(file.frames()) as frames:
            yield from islice(frames, most)

    return read


def _bench_video(
    detector: Detector,
    folder: Path,
    video: Path,
    frames: Callable[[], Iterator[Frame]],
    depth: int,
    json_: str | None,
) -> None:
    from graphsurgery.runtime.side_by_side import measure_side_by_side

    detector.manifest.require_detections(folder)
    with Display() as display:
        display.begin("bench --video")
        measured = measure_side_by_side(detector, frames, depth, _ROUNDS, progress=display.advance)
    parts = {player.entry.name: player.timer.summary() for player in detector.chain.players}
    devices = {device: choice.provider for device, choice in detector.devices.items()}
    result = {"folder": str(folder), "video": str(video), "devices": devices, **measured, "latency": {"parts": parts}}
    write_json(json_, result)
    rows = [
        ["one after another", f"{measured['sequential']['frames_per_second']:.2f}", ""],
        [f"--pipeline {depth}", f"{measured['pipeline']['frames_per_second']:.2f}", f"{measured['ratio']:.2f}"],
    ]
    title = f"Frames a second, {measured['frames']} frames, {_ROUNDS} rounds in turns"
    screen = screen_for(json_)
    screen.print(terminal.plain_table(title, ["loop", "frames/s", "ratio"], rows))
    stages = "stages: " + " | ".join(" + ".join(stage) for stage in measured["stages"])
    between = f"ratio between {measured['ratio_from']:.2f} and {measured['ratio_to']:.2f}"
    screen.print(f"\n{between}\n{stages}", highlight=False, markup=False, soft_wrap=True)


_COLUMNS = ["part", "device", "mean", "p50", "p90", "share"]


def _rows(detector: Detector, latency: dict[str, Any]) -> list[list[str]]:
    total = latency["total"]["mean_ms"]
    rows = []
    for part in detector.manifest.parts:
        times = latency["parts"][part.name]
        where = f"{part.device} ({detector.devices[part.device].provider})"
        rows.append([part.name, where, *_cells(times), f"{times['mean_ms'] / total:.0%}"])
    around = total - sum(times["mean_ms"] for times in latency["parts"].values())
    rows.append(["around the parts", "", f"{around:.1f}", "", "", f"{around / total:.0%}"])
    rows.append(["total", "", *_cells(latency["total"]), ""])
    return rows


def _cells(times: dict[str, float]) -> list[str]:
    return [f"{times[name]:.1f}" for name in ("mean_ms", "p50_ms", "p90_ms")]
