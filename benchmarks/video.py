"""Frames of a video one after another against parts of several at once, where an accelerator is waited for.

    python -m graphsurgery apply shapes && python benchmarks/video.py --parts model/shapes

The accelerator is simulated: what its parts give was computed before, and each of their runs sleeps as long as the
device would take, which leaves the processor free. It is one device, so its parts take turns on it. It takes as long
for a frame as all else does on this processor, half of that, or twice; `none` is the processor alone. Both loops read
the video, detect, draw, and write a video of what they found, in turns, so that another job on the machine slows both.

Goals: where the accelerator takes as long as the rest, 1.5 times the frames; never fewer anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from graphsurgery.demo import shapes
from graphsurgery.images.drawing import draw_detections
from graphsurgery.runtime.detector import Detector
from graphsurgery.runtime.overlap import Detections
from graphsurgery.runtime.side_by_side import measure_side_by_side
from graphsurgery.video.file import VideoFile
from graphsurgery.video.frame import Frame
from graphsurgery.video.writer import VideoWriter

RATE = Fraction(25)
GOAL = 1.5


class Accelerator:
    """One device: whoever runs on it has it alone, for `seconds`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.seconds = 0.0


class SimulatedSession:
    """Stands in for a part's session: it sleeps, and gives what the part gave for these inputs before."""

    def __init__(self, session: Any, device: Accelerator) -> None:
        self.inputs, self.outputs = session.inputs, session.outputs
        self._session, self._device = session, device
        self._known: dict[int, dict[str, np.ndarray]] = {}

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        key = hash(tuple(value.tobytes() for value in inputs.values()))
        if key not in self._known:
            self._known[key] = self._session.run(inputs)
            return self._known[key]
        with self._device.lock:
            time.sleep(self._device.seconds)
        return self._known[key]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, default=Path("model/shapes"))
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="graphsurgery-") as name:
        video = Path(name) / "shapes.mp4"
        draw_video(video, options.frames)
        results = {}
        for share in (1.0, 0.5, 2.0, None):
            what = "none" if share is None else f"accelerator at {share:g} of the rest"
            results[what] = measure(options, video, Path(name), share)
            print(what, json.dumps(results[what]), flush=True)
    result = {
        "results": results,
        "goal": GOAL,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def draw_video(path: Path, frames: int) -> None:
    """Write shapes that move, another scene every ten frames."""
    writer = VideoWriter(path, RATE)
    for number in range(frames):
        scene, step = divmod(number, 10)
        image = shapes.draw(shapes.CAPTURE_SEED, scene, size=(shapes.HEIGHT, shapes.WIDTH), objects=4).image
        writer.write(np.roll(np.asarray(image), 4 * step, axis=1), number, 1 / RATE)
    writer.close()


def measure(options: argparse.Namespace, video: Path, folder: Path, share: float | None) -> dict[str, Any]:
    """Return what both loops reach, with an accelerator that takes `share` of the time of all else, or with none."""
    detector = Detector.load(options.parts, threads=options.threads, spin=False)
    file = VideoFile(video)
    writer = [VideoWriter(folder / "out.mp4", RATE)]

    def read() -> Iterator[Frame]:
        writer[0].close()
        writer[0] = VideoWriter(folder / "out.mp4", RATE)
        yield from file.frames()

    def draw(frame: Frame, found: Detections) -> None:
        drawn = draw_detections(frame.pixels, found, detector.manifest.classes, 0.5)
        writer[0].write(np.asarray(drawn), frame.ticks, frame.tick)

    told: dict[str, float] = {}
    if share is not None:
        device = Accelerator()
        simulated = []
        for player in detector.chain.players:
            if player.entry.accelerator:
                player.session = SimulatedSession(player.session, device)
                simulated.append(player.session)
        for frame in read():  # computes what the accelerator will give
            draw(frame, detector(frame.pixels))
        begin, used = time.perf_counter(), time.process_time()
        count = 0
        for frame in read():
            draw(frame, detector(frame.pixels))
            count += 1
        rest = (time.perf_counter() - begin) / count
        device.seconds = share * rest / len(simulated)
        told = {"rest_ms": 1e3 * rest, "rest_cpu_ms": 1e3 * (time.process_time() - used) / count}
    measured = measure_side_by_side(detector, read, options.depth, options.rounds, draw)
    writer[0].close()
    return {name: _rounded(value) for name, value in {**told, **measured}.items() if name != "stages"}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return round(value, 2) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
