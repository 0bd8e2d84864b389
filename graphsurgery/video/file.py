"""The frames of a file, and how many are lost in it.

What can't be decoded is left out, and what comes behind it is read on. Damaged pictures, of which a decoder shows the
rest of the last one perhaps, are left out too: what would be found in them is in no picture.

Some of FFmpeg's formats are lists of other files, or of addresses in a network. So it may try those only that hold a
video themselves.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

from graphsurgery import files
from graphsurgery.errors import InputError
from graphsurgery.video.decoded import pixels_of
from graphsurgery.video.frame import Frame
from graphsurgery.video.losses import Losses
from graphsurgery.video.pyav import pyav

_FORMATS = (
    *("mov", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "av1", "obu", "ivf"),
    *("flv", "asf", "ogg", "mxf", "nut", "mjpeg", "yuv4mpegpipe", "gif", "dv", "rm", "wtv", "vc1", "vvc", "swf"),
)
_LARGEST = 2**62  # bytes; a video is never read as a whole
_MOST_ERRORS = 1000  # one after another, of a file that is nothing but damage


class VideoFile:
    """A video in a file. Raises InputError for what is none, MissingTool without PyAV."""

    ended: str | None = None
    dropped = 0

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self._losses = Losses()
        with closing(self._open()) as container:
            stream = self._stream(container)
            self.rate = Fraction(stream.average_rate) if stream.average_rate else None
            self.total = stream.frames or self._estimated(container, stream)
            self.has_sound = bool(container.streams.audio)

    @property
    def lost(self) -> int:
        """How many frames were damaged or missing, as far as it was read."""
        return self._losses.count

    def frames(self) -> Generator[Frame, None, None]:
        """Yield the frames, from the first on. Raises InputError where there is none."""
        self._losses = losses = Losses()
        with closing(self._open()) as container:
            stream = self._stream(container)
            stream.thread_type = "AUTO"  # as many as there are processors, where the codec can
            tick = Fraction(stream.time_base)
            losses.step = float(1 / self.rate / tick) if self.rate else None
            first, last, number = None, -1, 0
            for picture in self._pictures(container, stream, losses):
                if picture.pts is None:  # a stream without a container has no times
                    ticks = last + max(1, round(losses.step or 1)) if number else 0
                else:
                    first = picture.pts if first is None else first
                    ticks = picture.pts - first
                if picture.is_corrupt or ticks <= last:
                    losses.unusable += 1
                    continue
                yield Frame(number, pixels_of(picture, self.name), ticks, tick)
                losses.shown(ticks)
                last, number = ticks, number + 1
            losses.ended = True
        if not number:
            raise InputError(f"{self.name}: no frame of it can be read; give a video that a player shows")

    def _pictures(self, container: Any, stream: Any, losses: Losses) -> Iterator[Any]:
        av = pyav()
        packets, errors = container.demux(stream), 0
        while errors < _MOST_ERRORS:
            try:
                packet = next(packets)
                if packet.size and not packet.is_discard:
                    losses.packets += 1
                losses.damaged |= packet.is_corrupt
                pictures = packet.decode()
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError) as error:
                losses.damaged, errors = True, errors + 1
                if isinstance(error, EOFError):
                    return
                continue
            for picture in pictures:
                losses.pictures, errors = losses.pictures + 1, 0
                yield picture

    def _open(self) -> Any:
        av = pyav()
        options = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file"}
        try:
            files.require_regular(self.path, _LARGEST)
            return av.open(self.name, options=options)
        except FileNotFoundError as error:
            raise InputError(f"{self.name}: no such video") from error
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = files.reason(error) if isinstance(error, OSError) else "no video, or its end is missing"
            raise InputError(f"{self.name}: can't be read as a video ({reason}); give another") from error

    def _stream(self, container: Any) -> Any:
        av = pyav()
        stream = container.streams.best("video")
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            raise InputError(f"{self.name}: there is no video in it; give a file that has one")
        return stream

    def _estimated(self, container: Any, stream: Any) -> int | None:
        seconds = stream.duration * stream.time_base if stream.duration else (container.duration or 0) / 1_000_000
        return round(seconds * self.rate) or None if self.rate and seconds > 0 else None
