"""The frames of a video one after another, and with parts of several at once, in turns.

Another job on the machine then slows both, and their ratio stays what it is: that is its median over the rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

from graphsurgery.errors import InputError
from graphsurgery.progress import Progress, silent
from graphsurgery.runtime.detector import Detector
from graphsurgery.runtime.overlap import Detections, Pipelined
from graphsurgery.video.frame import Frame


def _nothing(frame: Frame, found: Detections) -> None: ...


def measure_side_by_side(
    detector: Detector,
    frames: Callable[[], Iterable[Frame]],
    depth: int,
    rounds: int,
    then: Callable[[Frame, Detections], object] = _nothing,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Detect in all `frames`, which are read anew each time, `rounds` times both ways; `then` is called with each.

    Returns how many `frames` there are, the medians of the frames a second of the `sequential` loop and of the
    `pipeline`, and of their `ratio`, which lies between `ratio_from` and `ratio_to`. Raises InputError without a frame.
    """
    pipelined = Pipelined(detector, depth)

    def sequential() -> int:
        count = 0
        for frame in frames():
            then(frame, detector(frame.pixels))
            count += 1
        return count

    def overlapped() -> int:
        return sum(1 for _ in pipelined.through(frames(), lambda frame: frame.pixels, then))

    for first in frames():
        detector.warm_up(first.pixels, 2)
        break
    rates: dict[Callable[[], int], list[float]] = {sequential: [], overlapped: []}
    for _ in range(rounds):
        for loop, measured in rates.items():
            begin = time.perf_counter()
            count = loop()
            if not count:
                raise InputError("no frame: there is nothing to measure")
            measured.append(count / (time.perf_counter() - begin))
            progress(sum(map(len, rates.values())), 2 * rounds)
    ratios = [many / one for one, many in zip(rates[sequential], rates[overlapped], strict=True)]
    return {
        "depth": depth,
        "stages": pipelined.stages,
        "frames": count,
        "rounds": rounds,
        "sequential": {"frames_per_second": statistics.median(rates[sequential])},
        "pipeline": {"frames_per_second": statistics.median(rates[overlapped])},
        "ratio": statistics.median(ratios),
        "ratio_from": min(ratios),
        "ratio_to": max(ratios),
    }
