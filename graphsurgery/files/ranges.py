"""Ranges of one file put into another, by the kernel where it can, so that what is copied passes through no memory."""

from __future__ import annotations

import os
from typing import BinaryIO

_CHUNK = 1 << 23  # bytes that are read at a time where the kernel doesn't copy
_MOST = 1 << 30  # bytes that the kernel is asked to copy at a time
_BEHIND = 1 << 27  # bytes after which the disk is set to work


def append_range(target: BinaryIO, source: BinaryIO, offset: int, length: int) -> None:
    """Write `length` bytes of `source`, from `offset` on, to where `target` stands. Raises OSError, also for fewer."""
    target.flush()
    begin = target.tell()
    done = _by_the_kernel(target.fileno(), source.fileno(), offset, length)
    target.seek(begin + done)
    source.seek(offset + done)
    while done < length:
        piece = source.read(min(_CHUNK, length - done))
        if not piece:
            raise OSError(f"{source.name} ends {length - done} bytes too early")
        target.write(piece)
        done += len(piece)


def _by_the_kernel(target: int, source: int, offset: int, length: int) -> int:
    """Return how many bytes it has copied: none where the system, or one of the file systems, doesn't know how."""
    if not hasattr(os, "copy_file_range"):
        return 0
    done = 0
    while done < length:
        try:
            copied = os.copy_file_range(source, target, min(_MOST, length - done), offset + done)
        except OSError:  # a disk that is full says so again when the rest is written
            break
        if copied == 0:
            break
        done += copied
    return done
