"""What a user names as a video: a file, or a camera as this system calls it."""

from __future__ import annotations

import sys
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from graphsurgery.errors import InputError
from graphsurgery.video.camera import Camera
from graphsurgery.video.file import VideoFile
from graphsurgery.video.frame import Frame


class Video(Protocol):
    """Frames, in the order of their times, and what became of others."""

    name: str

    @property
    def rate(self) -> Fraction | None:
        """Frames a second, as far as it is known."""

    @property
    def total(self) -> int | None:
        """About how many frames there are, as far as it is known."""

    @property
    def has_sound(self) -> bool:
        """Whether there is sound beside the pictures."""

    @property
    def lost(self) -> int:
        """How many frames of a file were damaged or missing so far."""

    @property
    def dropped(self) -> int:
        """How many frames of a camera came when nobody was ready for them."""

    @property
    def ended(self) -> str | None:
        """Why a camera gave no more."""

    def frames(self) -> Generator[Frame, None, None]:
        """Yield the frames. Raises InputError where there is none."""


def open_video(text: str) -> Video:
    """Return the file or the camera that `text` names; it is opened when its frames are asked for.

    Raises InputError for neither, MissingTool without PyAV.
    """
    camera = None if Path(text).is_file() else _camera(text, sys.platform)
    return Camera(text, *camera) if camera is not None else VideoFile(Path(text))


def _camera(text: str, system: str) -> tuple[str, str] | None:
    """Return what FFmpeg calls the camera, and the format that reads it; None for what can only be a file."""
    number = text.isascii() and text.isdigit()
    if system == "win32":
        return (text, "dshow") if text.startswith("video=") else None
    if system == "darwin":
        return (f"{text}:none", "avfoundation") if number else None
    path = Path(f"/dev/video{text}" if number else text)
    if path.is_char_device():
        return str(path), "video4linux2"
    if number or path.is_relative_to("/dev"):
        there = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
        raise InputError(f"--video {text}: {path} is no camera; there is {there}")
    return None
