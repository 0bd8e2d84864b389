"""Temporary files and folders under names that no other process makes, here or on another machine.

    .graphsurgery-<host>-<process>-<random>       what is being written; may have a suffix
    .graphsurgery-<host>-<process>-<random>.lock  held as long as its owner lives

A lock that is free is of a run that was killed: whoever comes next into that folder removes it with what it is of.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from graphsurgery.files.door import MB, read_json
from graphsurgery.files.interrupts import ctrl_c_held_back
from graphsurgery.files.locks import HOST, Lock, note

# both apply to one folder, the second as long as its files are being put in their places (`commit`)
FOLDER_LOCK, JOURNAL = ".graphsurgery.lock", ".graphsurgery.journal"
LONGEST_JOURNAL = 16 * MB
_PREFIX, _SYSTEM_PREFIX = ".graphsurgery-", "graphsurgery-"
_LOCK = ".lock"


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write a file to, which takes the place of `path` at the end.

    Until then what was there stays, even if the power fails; if anything is raised, it stays for good, and nothing else
    is left. OSErrors are the caller's to explain.
    """
    with reserved(path.parent, path.suffix) as temporary:
        yield temporary
        to_disk(temporary)
        temporary.replace(path)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder among the temporary files of the system, which is removed at the end. Raises OSError."""
    with reserved(Path(tempfile.gettempdir()), prefix=_SYSTEM_PREFIX) as folder:
        folder.mkdir(mode=0o700)
        yield folder


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make `folder` and those above it that aren't there; at the end those that are empty go. Raises OSError."""
    there = next((parent for parent in (folder, *folder.parents) if parent.exists()), folder)
    if there == folder or not there.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        yield
        return
    with reserved(there, made=folder.relative_to(there).as_posix()):
        folder.mkdir(parents=True, exist_ok=True)
        yield


@contextlib.contextmanager
def reserved(place: Path, suffix: str = "", *, prefix: str = _PREFIX, made: str | None = None) -> Iterator[Path]:
    """Yield the name of a file or a folder to be made in `place`, and remove what it has become at the end.

    `made` are folders in `place` that are this run's too, as long as they are empty. Raises OSError.
    """
    clear_once(place, prefix)
    lock = None
    try:
        while lock is None:  # whoever looks for leftovers may be faster
            path = place / f"{prefix}{HOST}-{os.getpid()}-{secrets.token_hex(6)}"
            with ctrl_c_held_back():  # between the file on the disk and its name here
                lock = Lock.take(path.with_name(path.name + _LOCK), made=made)
        yield path.with_name(path.name + suffix)
    finally:
        if lock is not None:
            with ctrl_c_held_back():
                _end(lock, path, made)


def to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would outlive a power cut. Raises OSError where a file can't be."""
    folder = path.is_dir()
    if folder and os.name == "nt":  # where a folder can't be opened, and NTFS keeps a journal of names itself
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not folder:  # some network file systems know no such thing as a folder on the disk
            raise
    finally:
        os.close(descriptor)


def clear(folder: Path, prefix: str = _PREFIX) -> None:
    """Remove from `folder` what runs left that were killed; what can't be removed stays."""
    with contextlib.suppress(OSError):
        with os.scandir(folder) as entries:
            locks = [e.name for e in entries if e.name.startswith((prefix, FOLDER_LOCK)) and e.name.endswith(_LOCK)]
        for name in locks:
            path = folder / name
            lock = Lock.take(path, new=False)
            if lock is None:
                continue
            if name == FOLDER_LOCK:
                lock.release()
            else:
                _end(lock, path.with_suffix(""), inside(note(path).get("made")))


@functools.cache
def clear_once(folder: Path, prefix: str = _PREFIX) -> None:
    """Do as `clear`, once in the life of this process."""
    clear(folder, prefix)


def clear_system() -> None:
    """Remove what killed runs left among the temporary files of the system, once in the life of this process."""
    clear_once(Path(tempfile.gettempdir()), _SYSTEM_PREFIX)


def is_internal(name: str) -> bool:
    """Whether a file of this name is the business of this package alone."""
    return name in (FOLDER_LOCK, JOURNAL) or name.startswith(_PREFIX)


def from_journal(folder: Path) -> str | None:
    """Return the name under which the files lie that `folder` is about to get.

    None where there is no journal, nothing where it can't be read.
    """
    try:
        return str(read_json(folder / JOURNAL, LONGEST_JOURNAL)["from"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def inside(name: object) -> str | None:
    """Return a path with / if it leads down from where it is looked up."""
    if not isinstance(name, str) or PureWindowsPath(name).anchor or ".." in PureWindowsPath(name).parts:
        return None
    return name


def _end(lock: Lock, path: Path, made: str | None) -> None:
    """Remove `path`, with any suffix, then the lock on it; not what a journal still needs."""
    if from_journal(path.parent) in (path.name, ""):
        lock.release(remove=False)
        return
    found = [path, *(other for other in path.parent.glob(f"{path.name}.*") if other != lock.path)]
    for each in found:
        _remove(each)
    folder = path.parent / made if made else path.parent
    while folder != path.parent:
        with contextlib.suppress(OSError):
            folder.rmdir()
        folder = folder.parent
    lock.release(remove=not any(map(os.path.lexists, found)))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
