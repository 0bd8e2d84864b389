"""How far a video is, drawn on standard error while it is played."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from graphsurgery.cli.screen import err
from graphsurgery.report import terminal

if TYPE_CHECKING:
    from graphsurgery.runtime.detector import Detector
    from graphsurgery.runtime.timer import Timer
    from graphsurgery.video.source import Video

_REFRESHES = 4  # a second
_WINDOW = 8  # refreshes that a frame rate is taken over


@dataclass
class Progress:
    """How far a video is; told by the thread that writes, read by the one that shows it."""

    latency: Timer
    begin: float = field(default_factory=time.perf_counter)
    frames: int = 0

    @property
    def seconds(self) -> float:
        """The time since the first frame was asked for."""
        return time.perf_counter() - self.begin


class VideoDisplay:
    """Frame rate, and what each part takes; nothing where standard error is no terminal."""

    def __init__(self, detector: Detector, video: Video, progress: Progress) -> None:
        self._detector, self._video, self._progress = detector, video, progress
        self._seen: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._live = Live(console=err, get_renderable=self._drawn, refresh_per_second=_REFRESHES, transient=True)

    def __enter__(self) -> None:
        if err.is_terminal:
            self._live.start()

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def _drawn(self) -> RenderableType:
        done, now = self._progress.frames, time.perf_counter()
        self._seen.append((now, done))
        begin, before = self._seen[0]
        rate = f", {(done - before) / (now - begin):.1f} frames/s" if now > begin else ""
        of = f" of {self._video.total}" if self._video.total else ""
        counts = "".join(
            f", {count} {what}"
            for what, count in (("lost", self._video.lost), ("dropped", self._video.dropped))
            if count
        )
        line = Text(f"frame {done}{of}{rate}{counts}")
        table = terminal.plain_table("", ["part", "device", "p50 ms", "p90 ms"], part_rows(self._detector))
        return Group(line, table)


def part_rows(detector: Detector) -> list[list[str]]:
    """Return a row for each part: its name, its device, and what it takes in milliseconds."""
    rows = []
    for player in detector.chain.players:
        entry, times = player.entry, player.timer.summary()
        where = f"{entry.device} ({detector.devices[entry.device].provider})"
        rows.append([entry.name, where, *_cells(times)])
    return rows


def _cells(times: dict[str, Any]) -> list[str]:
    return [f"{times[name]:.1f}" if name in times else "" for name in ("p50_ms", "p90_ms")]
