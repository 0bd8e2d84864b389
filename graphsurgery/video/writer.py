"""Pictures with their times, into a file that players take.

The formats are those that keep the time of each frame, the encoders such as PyAV's wheels have. H.264 and VP9 in 4:2:0
is what every player shows, but it takes an even width and height: the last row or column is doubled where it is odd.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from graphsurgery.errors import InputError
from graphsurgery.video.pyav import pyav

_H264 = "libx264", {"preset": "veryfast", "crf": "20"}
_VP9 = "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "row-mt": "1", "crf": "30", "b": "0"}
_FORMATS = {
    **dict.fromkeys((".mp4", ".m4v"), ("mp4", _H264)),
    ".mov": ("mov", _H264),
    ".mkv": ("matroska", _H264),
    ".webm": ("webm", _VP9),
}
SUFFIXES = tuple(_FORMATS)
_RATE = Fraction(30)  # where it isn't known; the encoder plans its bits by it, times come from the frames


class VideoWriter:
    """Writes a video to `path`, whose suffix is one of SUFFIXES, all pictures in the size of the first.

    Raises MissingTool without PyAV, or where its FFmpeg has not the encoder; OSError.
    """

    def __init__(self, path: Path, rate: Fraction | None = None) -> None:
        av = pyav()
        format_, (codec, self._options) = _FORMATS[path.suffix.lower()]
        self._codec = codec
        self._rate = rate or _RATE
        self._stream: Any = None
        self._container = av.open(str(path), "w", format=format_)

    def write(self, pixels: np.ndarray, ticks: int, tick: Fraction) -> None:
        """Add a picture, uint8 [h, w, 3], later than all before. Raises OSError, as where the disk is full."""
        av = pyav()
        height, width = pixels.shape[:2]
        if height % 2 or width % 2:
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        if self._stream is None:
            self._open(picture, tick)
        size = {"width": self._stream.width, "height": self._stream.height}
        picture = picture.reformat(**size, format="yuv420p", dst_colorspace=av.video.reformatter.Colorspace.ITU709)
        picture.pts, picture.time_base = ticks, tick
        self._mux(picture)

    def close(self) -> None:
        """Write what makes it a file that can be played. Raises OSError."""
        try:
            if self._stream is not None:
                self._mux(None)
        finally:
            self._container.close()

    def _open(self, picture: Any, tick: Fraction) -> None:
        stream = self._container.add_stream(self._codec, rate=self._rate, options=self._options)
        stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
        context = stream.codec_context
        context.time_base = tick
        context.colorspace = 1  # BT.709, which players else guess by the size
        self._stream = stream

    def _mux(self, picture: Any) -> None:
        for packet in self._stream.encode(picture):
            self._container.mux(packet)


def refuse_unknown_suffix(path: Path) -> None:
    """Raise InputError for a file of no format that keeps times."""
    if path.suffix.lower() not in _FORMATS:
        known = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise InputError(f"--out {path}: a video of that suffix can't be written; give one of {known}")
