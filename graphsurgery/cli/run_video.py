"""run --video: what a folder of parts finds in each frame of a video."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from graphsurgery.cli.screen import screen_for, write_json
from graphsurgery.cli.video_display import Progress, VideoDisplay, part_rows
from graphsurgery.errors import InputError
from graphsurgery.report import terminal

if TYPE_CHECKING:
    from graphsurgery.runtime.detector import Detector
    from graphsurgery.runtime.overlap import Detections
    from graphsurgery.video.frame import Frame
    from graphsurgery.video.source import Video
    from graphsurgery.video.writer import VideoWriter

_LINES = ".jsonl"


@dataclass(frozen=True)
class Targets:
    """Where the drawn frames go, if anywhere, and their detections, one line of JSON each."""

    video: Path | None
    lines: Path

    @property
    def files(self) -> list[Path]:
        """Both, the video last."""
        return [self.lines, *([self.video] if self.video is not None else [])]


def run_video(
    name: str,
    folder: Path,
    load: Callable[[], Detector],
    *,
    out: Path | None,
    score: float,
    depth: int,
    json_: str | None,
) -> None:
    """Play the parts on each frame, draw what they find, and write that and the detections.

    Ctrl-C ends the video where it is: what was written until then takes its place. Raises InputError, having written
    nothing, for what is no video, and where it can't be written; MissingTool without PyAV.
    """
    from graphsurgery.runtime.overlap import Pipelined
    from graphsurgery.runtime.timer import Timer
    from graphsurgery.video.source import open_video

    screen = screen_for(json_)
    video = open_video(name)
    targets = targets_of(video, out)
    detector = load()
    detector.manifest.require_detections(folder)
    pipelined = Pipelined(detector, depth)
    progress = Progress(Timer())
    interrupt: BaseException | None = None
    with _outputs(targets, video) as (lines, writer):
        write = partial(_write, detector, str(folder), video.name, score, lines, writer)
        with VideoDisplay(detector, video, progress), closing(video.frames()) as frames:
            try:
                _play(pipelined, frames, write, progress)
            except KeyboardInterrupt as error:
                interrupt = error
            except InputError as error:
                if not isinstance(error.__cause__, InterruptedError):  # of a part that Ctrl-C has ended
                    raise
                interrupt = KeyboardInterrupt()
        seconds = progress.seconds
        if not progress.frames:
            raise interrupt or InputError(f"{video.name}: no frame was written")
    result: dict[str, Any] = {
        "folder": str(folder),
        "video": video.name,
        "out": None if targets.video is None else str(targets.video),
        "detections": str(targets.lines),
        "frames": progress.frames,
        "lost": video.lost,
        "dropped": video.dropped,
        "ended": video.ended,
        "interrupted": interrupt is not None,
        "seconds": seconds,
        "frames_per_second": progress.frames / seconds,
        "devices": {device: choice.provider for device, choice in detector.devices.items()},
        "pipeline": {"depth": depth, "stages": pipelined.stages},
        "latency": {
            "parts": {player.entry.name: player.timer.summary() for player in detector.chain.players},
            "total": progress.latency.summary(),
        },
    }
    write_json(json_, result)
    screen.print(terminal.plain_table("Milliseconds per frame", ["part", "device", "p50", "p90"], part_rows(detector)))
    written = [Path(str(json_))] if json_ not in (None, "-") else []
    said = [*_told(result, video), "", *map(str, [*written, *targets.files])]
    screen.print("\n" + "\n".join(said), highlight=False, markup=False, soft_wrap=True)
    if interrupt is not None:
        raise interrupt


def targets_of(video: Video, out: Path | None) -> Targets:
    """Return where the frames of a video go. Raises InputError where they can't."""
    from graphsurgery.video.file import VideoFile
    from graphsurgery.video.writer import refuse_unknown_suffix

    if out is None:
        if not isinstance(video, VideoFile):
            raise InputError(
                f"--video {video.name}: a camera needs --out, FILE.mp4 or FILE{_LINES} for detections alone"
            )
        out = video.path.with_name(f"{video.path.stem}.detections.mp4")
    if out.suffix.lower() != _LINES:
        refuse_unknown_suffix(out)
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"--out {out}: no file can be written there; name a file in a folder that exists")
    targets = Targets(None, out) if out.suffix.lower() == _LINES else Targets(out, out.with_suffix(_LINES))
    if isinstance(video, VideoFile) and any(file.exists() and file.samefile(video.path) for file in targets.files):
        raise InputError(f"--out {out}: that is the video itself; give another file")
    return targets


@contextmanager
def _outputs(targets: Targets, video: Video) -> Iterator[tuple[TextIO, VideoWriter | None]]:
    """Yield what lines and frames are written to; the files take their places at the end, if nothing is raised."""
    from graphsurgery.files.commit import filled_together
    from graphsurgery.video.pyav import pyav
    from graphsurgery.video.writer import VideoWriter

    try:
        with filled_together(targets.files) as names, names[0].open("w", encoding="utf-8") as lines:
            writer = VideoWriter(names[-1], video.rate) if targets.video is not None else None
            try:
                yield lines, writer
            finally:
                if writer is not None:
                    writer.close()
            lines.close()
    except (OSError, pyav().error.FFmpegError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{targets.files[-1]}: can't be written ({reason})") from error


def _play(
    pipelined: Any, frames: Iterator[Frame], write: Callable[[Frame, Detections], None], progress: Progress
) -> None:
    """Have each frame played and written."""
    began: dict[int, float] = {}

    def noted() -> Iterator[Frame]:
        for frame in frames:
            began[frame.number] = time.perf_counter()
            yield frame

    def finish(frame: Frame, found: Detections) -> None:
        write(frame, found)
        progress.latency.add(time.perf_counter() - began.pop(frame.number))
        progress.frames += 1

    progress.begin = time.perf_counter()
    with closing(pipelined.through(noted(), lambda frame: frame.pixels, finish)) as done:
        for _ in done:
            pass


def _write(
    detector: Detector,
    folder: str,
    name: str,
    score: float,
    lines: TextIO,
    writer: VideoWriter | None,
    frame: Frame,
    found: Detections,
) -> None:
    import numpy as np

    from graphsurgery.evaluation.coco import describe_detections
    from graphsurgery.images.drawing import draw_detections

    classes = detector.manifest.classes
    place = {"video": name, "folder": folder, "frame": frame.number, "seconds": round(frame.seconds, 6)}
    lines.write(json.dumps({**place, "detections": describe_detections(found, classes)}) + "\n")
    if writer is not None:
        drawn = np.asarray(draw_detections(frame.pixels, found, classes, score))
        writer.write(drawn, frame.ticks, frame.tick)


def _told(result: dict[str, Any], video: Video) -> Sequence[str]:
    """Say how fast it went, and what a reader of the files must know."""
    total = result["latency"]["total"]
    said = [
        f"{result['frames']} frames in {result['seconds']:.1f} s: {result['frames_per_second']:.2f} frames/s, "
        f"each after {total['p50_ms']:.0f} ms (p90 {total['p90_ms']:.0f})",
        "stages: " + " | ".join(" + ".join(stage) for stage in result["pipeline"]["stages"]),
    ]
    if result["lost"]:
        said.append(f"{result['lost']} frames of the file are damaged or missing")
    if result["dropped"]:
        said.append(f"{result['dropped']} frames of the camera were dropped: it gave them faster than they were played")
    if result["ended"]:
        said.append(f"the camera ended: {result['ended']}")
    if video.has_sound and result["out"]:
        said.append("the sound is not copied")
    return said
