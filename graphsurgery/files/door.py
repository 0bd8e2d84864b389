"""The door that every file comes in by which somebody else may have made.

It may be a pipe that never ends, a device, a link to one, or larger than the memory. So what is read is a regular file
of a size that its kind may have, and JSON of a depth that is safe to walk. OSErrors and ValueErrors are the caller's to
explain: `reason` is what such an error says.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphsurgery.errors import first_line

if TYPE_CHECKING:
    from pydantic import ValidationError

MB = 1 << 20
LONGEST_NAME = 200
_MOST_BRACKETS = 20_000_000  # an empty list is 3 bytes in a file and 80 in memory; the largest COCO file has 5 million
_UNSAFE = re.compile(r'[<>:"/\\|?*%\x00-\x1f\x7f]')
DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # of Windows, whatever the suffix


def is_plain_name(name: str) -> bool:
    """Whether a file or folder can have this name on every system, beside what else is there, and is not hidden."""
    return not (
        not name
        or len(name) > LONGEST_NAME
        or _UNSAFE.search(name)
        or DEVICE_NAME.fullmatch(name)
        or name[0] == "."
        or name[-1] in ". "
    )


def require_regular(path: Path, limit: int) -> None:
    """Raise OSError unless `path` is a regular file, or a link to one, of at most `limit` bytes."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("a folder, not a file" if stat.S_ISDIR(status.st_mode) else "a pipe or device, not a file")
    if status.st_size > limit:
        raise OSError(f"{status.st_size} bytes, more than the {limit} that such a file may have")


def read_bytes(path: Path, limit: int) -> bytes:
    """Return what is in a regular file of at most `limit` bytes. Raises OSError for anything else."""
    require_regular(path, limit)
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:  # it grew, or its file system doesn't say its size, as /proc
        raise OSError(f"more than the {limit} bytes that such a file may have")
    return data


def read_json(path: Path, limit: int) -> Any:
    """Return what is in a JSON file. Raises as `read_bytes`; ValueError for no JSON, or over 200 deep."""
    from pydantic_core import from_json

    data = read_bytes(path, limit)
    if data.count(b"[") + data.count(b"{") > _MOST_BRACKETS:
        raise ValueError(f"more than {_MOST_BRACKETS} lists and objects")
    return from_json(data)


def reason(error: Exception) -> str:
    """Return what is wrong with a file, in one line that doesn't name it."""
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)


def first_fault(error: ValidationError, *place: str | int) -> str:
    """Return the first thing that a pydantic model found wrong, and where: "images[3].height: Input should be ...".

    `place` leads to what was checked. It is one line, however long the keys in the file are.
    """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in (*place, *first["loc"]))
    return f"{_short(where.removeprefix('.')) or 'the file'}: {_short(first['msg'])}"


def _short(text: str, most: int = 120) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."
