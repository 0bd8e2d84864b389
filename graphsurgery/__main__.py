"""``python -m graphsurgery``: Ctrl-C ends it with exit code 130 at any time, as it is imported and as it exits too."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored, as in the background
        signal.signal(signal.SIGINT, _interrupted)
    code: int | str | None = 1

    @atexit.register  # the first that is registered is the last to be called
    def leave() -> None:
        """Leave without taking apart what was imported: that takes long, and a Ctrl-C in it shows a traceback."""
        ended = code if isinstance(code, int) else 1
        for stream in filter(None, (sys.stdout, sys.stderr)):  # one that was closed from the start is None
            try:
                stream.flush()
            except BrokenPipeError:  # whoever read it has seen enough
                continue
            except (OSError, ValueError):  # the disk is full, or it is closed
                ended = ended or 2
        os._exit(ended)

    from graphsurgery.cli import main as command_line

    try:
        command_line()
    except SystemExit as end:
        code = end.code or 0
    except KeyboardInterrupt:  # once more, while the first was answered
        _interrupted()


def _interrupted(signum: int = 0, frame: FrameType | None = None) -> None:
    """Leave at once: there is nothing to clean up before the work and after it."""
    os._exit(130)  # cli.exits.EXIT_INTERRUPTED, which would have to be imported


if __name__ == "__main__":
    main()
