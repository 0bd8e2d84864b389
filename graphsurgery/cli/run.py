"""run: what a folder of parts finds in images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import (
    AllowFallback,
    Devices,
    JsonFile,
    Operators,
    PartsFolder,
    PipelineDepth,
    Threads,
    compiled_column,
)
from graphsurgery.cli.run_video import run_video
from graphsurgery.cli.screen import Display, save, screen_for, write_json
from graphsurgery.errors import InputError
from graphsurgery.report import terminal

if TYPE_CHECKING:
    import numpy as np

    from graphsurgery.evaluation.columns import Opened
    from graphsurgery.runtime.detector import Detector


@app.command("run")
def run_command(
    folder: PartsFolder,
    image: Annotated[
        list[Path] | None, typer.Option(help="The image to detect objects in, or a folder. Repeatable.")
    ] = None,
    video: Annotated[
        str | None, typer.Option(metavar="FILE|DEVICE", help="A video instead, or a camera such as /dev/video0.")
    ] = None,
    out_: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Where the picture goes, or the folder of several; NAME.detections.png beside it. "
            "Of a video a video, or FILE.jsonl for detections alone; NAME.detections.mp4.",
        ),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Write the network's outputs as they are, OUTPUT.npy in a folder NAME.outputs."),
    ] = False,
    results: Annotated[
        str | None,
        typer.Option(metavar="NAME=DIR", help="Draw what a compiler's tool computed of the images; no part is played."),
    ] = None,
    dump_test_data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write what all and each part reads and gives, as ONNX's test data."),
    ] = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Draw only detections with at least this score.")] = 0.5,
    device: Devices = None,
    threads: Threads = None,
    pipeline: PipelineDepth = None,
    allow_fallback: AllowFallback = False,
    plugin: Operators = None,
    json_: JsonFile = None,
) -> None:
    """Play the parts on images or a video; write the detections as JSON and draw them.

    Example: python -m graphsurgery run model/shapes --image photo.png
    """
    from graphsurgery.devices.choices import parse_devices
    from graphsurgery.evaluation.coco import describe_detections
    from graphsurgery.images.drawing import draw_detections
    from graphsurgery.images.files import load_image, read_images
    from graphsurgery.runtime.detector import Detector
    from graphsurgery.runtime.threads import Threads as ThreadCounts

    counts = ThreadCounts.parse(threads or ())
    devices = parse_devices(device or [])
    if bool(image) == (video is not None):
        raise InputError(f"{folder}: give {'either --image or --video' if image else '--image, or --video'}")
    if video is not None:
        if raw or results is not None or dump_test_data is not None:
            raise InputError("--video: leave out --raw, --results and --dump-test-data; they are for images")
        load = partial(Detector.load, folder, devices, threads=counts, spin=False, allow_fallback=allow_fallback)
        run_video(video, folder, load, out=out_, score=score, depth=pipeline or 1, json_=json_)
        return
    assert image
    screen = screen_for(json_)
    files = [file.path for path in image for file in read_images(path)]
    several = len(files) > 1 or image[0].is_dir()
    targets = _targets(files, out_, several, "outputs" if raw else "detections.png")
    if raw and pipeline is not None:
        raise InputError("--raw and --pipeline exclude each other: outputs are written one image after another")
    if results is not None and (raw or pipeline is not None or device or dump_test_data is not None):
        raise InputError("--results plays no parts; leave out --raw, --pipeline, --device and --dump-test-data")
    first = load_image(files[0])  # what is no image is told before the parts are loaded
    read = None if results is None else compiled_column(results, folder).open(counts.others)
    detector = Detector.load(folder, devices, threads=counts, spin=pipeline is None, allow_fallback=allow_fallback)
    if dump_test_data is not None:
        _dump(detector, files, dump_test_data)
    if raw:
        _write_outputs(detector, chain([first], map(load_image, files[1:])), files, targets, folder, json_)
        return
    if not detector.manifest.detects:
        try:
            detector.manifest.require_detections(folder)
        except InputError as error:
            raise InputError(f"{error}; --raw writes the outputs as they are") from error
    found_ones: list[dict[str, Any]] = []  # of several images for --json alone: masks of thousands take the memory
    rows: list[list[str]] = []
    detected = _detect(detector, first, files[1:], pipeline) if read is None else _read(read, first, files)
    with Display() as display, closing(detected) as found_in:
        display.begin("run")
        for file, target, (picture, found) in zip(files, targets, found_in, strict=True):
            drawn = draw_detections(picture, found, detector.manifest.classes, score)
            save(target, partial(drawn.save, format="PNG"))
            detections = describe_detections(found, detector.manifest.classes)
            result = {"image": str(file), "folder": str(folder), "detections": detections}
            if several:
                write_json(str(target.with_suffix(".json")), result)
            if json_ or not several:
                found_ones.append(result)
            rows.append([file.name, str(len(_shown(result, score)))])
            display.advance(len(rows), len(files))
    if several:
        if json_:
            write_json(json_, {"folder": str(folder), "images": found_ones, "seconds": detector.seconds})
        screen.print(terminal.plain_table(f"Detections in {len(files)} images", ["image", "detections"], rows))
        written = [targets[0].parent] if json_ in (None, "-") else [Path(str(json_)), targets[0].parent]
    else:
        target = Path(json_) if json_ and json_ != "-" else targets[0].with_suffix(".json")
        write_json("-" if json_ == "-" else str(target), {**found_ones[0], "seconds": detector.seconds})
        shown = _shown(found_ones[0], score)
        screen.print(terminal.detections_table(f"{len(shown)} detections", shown[:20]))
        written = targets if json_ == "-" else [target, *targets]
    written += [dump_test_data] if dump_test_data is not None else []
    screen.print("\n" + "\n".join(map(str, written)), highlight=False, markup=False, soft_wrap=True)


def _detect(
    detector: Detector, first: np.ndarray, files: Sequence[Path], pipeline: int | None
) -> Generator[tuple[np.ndarray, dict[str, np.ndarray]], None, None]:
    """Yield each image with what is found in it; images are read as they are needed."""
    from graphsurgery.images.files import load_image
    from graphsurgery.runtime.overlap import Pipelined

    images = chain([first], map(load_image, files))
    if pipeline is None:
        for image in images:
            yield image, detector(image)
        return
    yield from Pipelined(detector, pipeline).through(images, lambda image: image, lambda image, found: (image, found))


def _read(
    column: Opened, first: np.ndarray, files: Sequence[Path]
) -> Generator[tuple[np.ndarray, dict[str, np.ndarray]], None, None]:
    """Yield each image with what was found in it elsewhere."""
    from graphsurgery.images.files import load_image

    for file, image in zip(files, chain([first], map(load_image, files[1:])), strict=True):
        placed = column.canvas.fit(image)
        yield image, placed.restore(dict(column.detect(placed, file)))


def _dump(detector: Detector, files: Sequence[Path], folder: Path) -> None:
    """Write test_data_set_K of all parts together into `folder`, and of each into a folder of its name, or nothing."""
    from graphsurgery.compiling.samples import dump
    from graphsurgery.compiling.test_data_sets import files_in
    from graphsurgery.files.commit import writing

    try:
        with Display() as display, writing(folder) as draft:
            display.begin("test data")
            dump(detector, files, draft.work, display.advance)
            earlier = [each for name in ("", *detector.seconds) for each in files_in(folder, name)]
            draft.publish(earlier, files_in(draft.work)[-1])
    except OSError as error:
        raise InputError(f"{folder}: can't be written ({error.strerror or error})") from error


def _write_outputs(
    detector: Detector,
    images: Iterable[np.ndarray],
    files: Sequence[Path],
    targets: Sequence[Path],
    folder: Path,
    json_: str | None,
) -> None:
    """Write what the network gives for each image into a folder of its own, all of it or nothing."""
    import numpy as np

    from graphsurgery.capture.samples import file_stem
    from graphsurgery.files.commit import writing

    if not detector.manifest.outputs:
        raise InputError(f"{folder}: its manifest lists no outputs, so that there is nothing to write")
    screen = screen_for(json_)
    results, rows = [], []
    with Display() as display:
        display.begin("run")
        for done, (file, target, image) in enumerate(zip(files, targets, images, strict=True), start=1):
            outputs = detector.raw(image)
            names = {name: f"{file_stem(name)}.npy" for name in outputs}
            try:
                with writing(target) as draft:
                    for name, output in outputs.items():
                        np.save(draft.work / names[name], output, allow_pickle=False)
                    draft.publish(list(names.values()), list(names.values())[-1])
            except OSError as error:
                raise InputError(f"{target}: can't be written ({error.strerror or error})") from error
            shapes = {name: f"{output.dtype} {list(output.shape)}" for name, output in outputs.items()}
            results.append({"image": str(file), "outputs": {n: str(target / names[n]) for n in names}})
            rows.append([file.name, ", ".join(f"{name} {shape}" for name, shape in shapes.items())])
            display.advance(done, len(files))
    write_json(json_, {"folder": str(folder), "images": results, "seconds": detector.seconds})
    screen.print(terminal.plain_table(f"Outputs for {len(files)} images", ["image", "outputs"], rows))
    screen.print("\n" + "\n".join(map(str, targets)), highlight=False, markup=False, soft_wrap=True)


def _targets(files: Sequence[Path], out: Path | None, several: bool, suffix: str) -> list[Path]:
    """Return where what is found in each image goes. Raises InputError where two would be one."""
    if not several:
        return [out or files[0].with_name(f"{files[0].stem}.{suffix}")]
    if out is not None and not out.is_dir():
        raise InputError(f"--out {out}: is no folder; several images need one that exists")
    targets = [(out or file.parent) / f"{file.stem}.{suffix}" for file in files]
    for target, count in Counter(str(target).casefold() for target in targets).items():
        if count > 1:
            raise InputError(f"{count} images would be written to {target}; give them names of their own")
    return targets


def _shown(result: Mapping[str, Any], score: float) -> list[dict[str, Any]]:
    return [found for found in result["detections"] if found["score"] is not None and found["score"] >= score]
