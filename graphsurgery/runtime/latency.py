"""How long a folder of parts takes for an image: each part, the whole way, and with parts of several images at once.

    measure_latency(detector, images, runs=20)  ->  {"parts": {"backbone_rpn": {"mean_ms": 812.4, ...}, ...},
                                                     "total": {"mean_ms": 2011.9, "p50_ms": ..., "p90_ms": ...}}

The total goes from the pixels of an image to the detections on it: it holds what the parts take, and scaling the image
to the canvas and pasting masks besides.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np

from graphsurgery.demo import shapes
from graphsurgery.errors import InputError
from graphsurgery.images.canvas import Canvas
from graphsurgery.progress import Progress
from graphsurgery.runtime.detector import Detector
from graphsurgery.runtime.overlap import Pipelined
from graphsurgery.runtime.timer import Timer

WARMUP = 2


def synthetic_image(canvas: Canvas) -> np.ndarray:
    """Draw an image of the canvas' size, uint8 [h, w, 3]: on the embedded default's canvas the first that it captures.

    One smaller than that is given the same image, which is scaled.
    """
    size = max(canvas.height, shapes.HEIGHT), max(canvas.width, shapes.WIDTH)
    return np.asarray(shapes.draw(shapes.CAPTURE_SEED, 0, size=size, objects=4).image)


def measure_latency(
    detector: Detector,
    images: Sequence[np.ndarray],
    runs: int,
    warmup: int = WARMUP,
    progress: Progress = lambda done, total: None,
    *,
    seconds: float = math.inf,
) -> dict[str, Any]:
    """Detect in `images`, one after another and round again until `runs` are done; milliseconds per part and in total.

    It ends before that with the run in which so many `seconds` are over: what takes that long, as a part on a vendor's
    emulator, has no need of many. Where nobody says what the outputs are, these are the end of the way. The first
    `warmup` runs, on the first image, don't count. Raises InputError without an image or a run.
    """
    _require(images, runs)
    detect: Callable[[np.ndarray], object] = detector if detector.manifest.detects else detector.raw
    detector.warm_up(images[0], warmup)
    total = Timer()
    started = time.perf_counter()
    for done, image in enumerate(islice(cycle(images), runs), start=1):
        begin = time.perf_counter()
        detect(image)
        total.add(time.perf_counter() - begin)
        progress(done, runs)
        if time.perf_counter() - started >= seconds:
            break
    return {
        "parts": {player.entry.name: player.timer.summary() for player in detector.chain.players},
        "total": total.summary(),
    }


def measure_pipeline(
    detector: Detector,
    images: Sequence[np.ndarray],
    runs: int,
    depth: int,
    warmup: int = WARMUP,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Detect in `runs` images, of which several are on their way at once.

    Returns the `stages`, `images_per_second`, and under `latency` what one image takes from being read to its
    detections: longer than alone, since it waits for those before it. Raises InputError as measure_latency.
    """
    _require(images, runs)
    pipelined = Pipelined(detector, depth)
    detector.warm_up(images[0], warmup)
    read: deque[float] = deque()
    latency = Timer()

    def noted() -> Iterator[np.ndarray]:
        for image in islice(cycle(images), runs):
            read.append(time.perf_counter())
            yield image

    begin = time.perf_counter()
    for done, _ in enumerate(pipelined.run(noted()), start=1):
        latency.add(time.perf_counter() - read.popleft())
        progress(done, runs)
    return {
        "depth": depth,
        "stages": pipelined.stages,
        "images_per_second": runs / (time.perf_counter() - begin),
        "latency": latency.summary(),
    }


def _require(images: Sequence[np.ndarray], runs: int) -> None:
    if not images or runs < 1:
        raise InputError(f"{len(images)} images in {runs} runs: there is nothing to measure; give at least one of both")
