"""The newest frame of a camera.

A thread reads all that the camera gives, and keeps the last. Who is slower than the camera gets the newest picture
whenever there is room for one; what came between is dropped and counted. Were the camera held up instead, its driver
would drop pictures unseen, and hand out those first that have waited longest.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import Any

from graphsurgery.errors import InputError, first_line
from graphsurgery.video.decoded import pixels_of
from graphsurgery.video.frame import Frame
from graphsurgery.video.pyav import pyav

_POLL = 0.2  # seconds; on Windows a wait without end can't be interrupted
_PATIENCE = 10.0  # seconds without a picture
_END = 2.0  # seconds for the thread to see that it is over
_MICROSECONDS = Fraction(1, 1_000_000)


class Camera:
    """A camera that FFmpeg reads by one of its formats for devices. Raises MissingTool without PyAV."""

    total = None
    has_sound = False
    lost = 0

    def __init__(self, name: str, address: str, format_: str) -> None:
        pyav()
        self.name, self._address, self._format = name, address, format_
        self.rate: Fraction | None = None
        self.dropped = 0
        self.ended: str | None = None
        self._changed = threading.Condition()
        self._newest: tuple[int, int, Any] | None = None  # its number, when it came in microseconds, the picture
        self._error: Exception | None = None
        self._over = False

    def frames(self) -> Generator[Frame, None, None]:
        """Yield the newest frame each time. Raises InputError where the camera can't be opened, or gives none."""
        thread = threading.Thread(target=self._read, name="graphsurgery-camera", daemon=True)
        thread.start()
        first, last = None, -1
        try:
            while (taken := self._take()) is not None:
                number, came, picture = taken
                self.dropped += number - last - 1
                first = came if first is None else first
                yield Frame(number, pixels_of(picture, self.name), came - first, _MICROSECONDS)
                last = number
            if first is None:
                reason = first_line(self._error) if self._error is not None else "it gives no picture"
                raise InputError(f"--video {self.name}: the camera can't be used ({reason})")
            self.ended = first_line(self._error) if self._error is not None else "it gives no more pictures"
        finally:
            self._over = True
            thread.join(_END)  # one that hangs in the driver ends with the process

    def _take(self) -> tuple[int, int, Any] | None:
        """Wait for a picture that is new; None where there will be none."""
        deadline = time.monotonic() + _PATIENCE
        with self._changed:
            while self._newest is None and not self._over and time.monotonic() < deadline:
                self._changed.wait(_POLL)
            taken, self._newest = self._newest, None
            return taken

    def _read(self) -> None:
        av = pyav()
        try:
            with contextlib.closing(av.open(self._address, format=self._format)) as container:
                stream = container.streams.video[0]
                self.rate = Fraction(stream.average_rate) if stream.average_rate else None
                for number, picture in enumerate(self._pictures(container, stream)):
                    with self._changed:
                        self._newest = number, time.monotonic_ns() // 1000, picture
                        self._changed.notify()
                    if self._over:
                        return
        except Exception as error:  # the caller's to tell
            self._error = error
        finally:
            with self._changed:
                self._over = True
                self._changed.notify()

    def _pictures(self, container: Any, stream: Any) -> Iterator[Any]:
        """Yield what can be decoded: a cable that is moved damages a picture of a camera that sends JPEG."""
        av = pyav()
        for packet in container.demux(stream):
            with contextlib.suppress(av.error.InvalidDataError):
                yield from packet.decode()
