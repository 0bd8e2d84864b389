"""PyAV: FFmpeg's libraries for Python, with the encoders that its wheels bring."""

from __future__ import annotations

from typing import Any

from graphsurgery.errors import missing_extra


def pyav() -> Any:
    """Return the module `av`, silenced: errors come as exceptions. Raises MissingTool where it isn't installed."""
    try:
        import av
    except ImportError as error:
        raise missing_extra("PyAV (av)", "video", "a video") from error
    av.logging.set_level(None)
    return av
