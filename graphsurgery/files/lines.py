"""Lines added to a file one by one, so that whoever is killed loses the line in hand and no other.

A line that is torn, because the power went or two wrote at once, ends where the next one begins; whoever reads it finds
that it isn't of the form it should be.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from graphsurgery.files.door import require_regular


def append_line(path: Path, line: bytes) -> None:
    """Add a line, without its end, to a file, which is made where it isn't there. Raises OSError."""
    with path.open("a+b") as file:
        if file.tell() and not _ends_with_newline(path):
            line = b"\n" + line
        file.write(line + b"\n")


def read_lines(path: Path, most_bytes: int, longest: int) -> Iterator[bytes]:
    """Yield the lines of a file, nothing where there is none. Raises OSError for what is no regular file, or larger."""
    try:
        require_regular(path, most_bytes)
        with path.open("rb") as file:
            while line := file.readline(longest):
                yield line
    except FileNotFoundError:
        return


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
