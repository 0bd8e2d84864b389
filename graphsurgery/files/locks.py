"""Locks of the operating system, each on a small file that says who holds it. They end with their owner, always."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

HOST = re.sub(r"[^0-9A-Za-z-]+", "-", platform.node())[:20] or "host"
_OWN = secrets.token_hex(8)  # in two containers both the process and the host may have the same name
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EINTR)
_LONGEST = 4096
_BEYOND = 1 << 30  # the byte that Windows locks, which then nobody can read


class Lock:
    """A lock that is held until `release`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    @staticmethod
    def take(path: Path, *, new: bool = True, made: str | None = None) -> Lock | None:
        """Return the lock on the file `path`; None where somebody holds it, or where it isn't there and not `new`.

        Where the file system knows no locks, a `new` one keeps nobody out, and any other counts as held. `made` is
        noted in the file. Raises OSError where the file can't be made.
        """
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if new else 0), 0o666)
            except OSError as error:
                if not new or (isinstance(error, PermissionError) and path.exists()):
                    return None
                raise
            locked = _lock(descriptor)
            if locked is False or (locked is None and not new):
                os.close(descriptor)
                return None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    break
            os.close(descriptor)  # whoever held it removed the file, and another has a lock on the new one
        if new:
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            who = {"process": os.getpid(), "host": HOST, "id": _OWN, "command": " ".join(sys.argv[1:3])[:80]}
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({**who, "since": now, "made": made}).encode())
        return Lock(path, descriptor)

    def release(self, *, remove: bool = True) -> None:
        """Let go of it, and `remove` its file."""
        if sys.platform == "win32":  # an open file can't be removed there; if another has opened it, it stays
            os.close(self._descriptor)
        if remove:
            with contextlib.suppress(OSError):
                self.path.unlink()
        if sys.platform != "win32":
            os.close(self._descriptor)


def note(path: Path) -> Mapping[str, Any]:
    """Return what the owner of a lock wrote into its file, or nothing."""
    with contextlib.suppress(OSError, ValueError):
        with path.open("rb") as file:
            content = json.loads(file.read(_LONGEST))
        return content if isinstance(content, dict) else {}
    return {}


def owner(path: Path) -> str:
    """Say who holds the lock on `path`."""
    said = note(path)
    if not {"process", "host", "since"} <= set(said):
        return "another process"
    what = f"'{said['command']}', " if said.get("command") else ""
    text = f"{what}process {said['process']} on {said['host']} since {said['since']},"
    return "".join(letter for letter in text if letter.isprintable())[:200]


def is_own(path: Path) -> bool:
    """Whether it is this process that holds the lock on `path`."""
    said = note(path)
    return (said.get("process"), said.get("id")) == (os.getpid(), _OWN)


def _lock(descriptor: int) -> bool | None:
    """Return whether the lock was free; None where the file system knows none."""
    if sys.platform == "win32":
        try:
            os.lseek(descriptor, _BEYOND, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(descriptor, 0, os.SEEK_SET)
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD else None
    return True
