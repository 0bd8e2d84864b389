"""Many files of a folder replaced at one point, without its being moved; and read, all of one run.

    with writing(folder) as draft:          nobody else writes into the folder until the end
        ...                                 files are written into draft.work, which lies in the folder
        draft.publish(own, last)            they take their places

A journal is the commit point: one small file, put into the folder by one rename, which says what goes and what comes.
Before it nothing in the folder was touched. After it whoever comes next does what is left of it, file by file, if its
owner died. A file that no run wrote is never moved, replaced or removed. Whoever reads looks before and after: where a
journal was there, or the file that was put in its place `last` is another, it reads again.

A power cut is a kill too. Without a wait for the disk it may leave a journal, and files in their new places, that are
empty, when the old ones are gone. So each step is on the disk before the next: the files, the journal, the new names.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from graphsurgery.errors import InputError
from graphsurgery.files.door import read_json
from graphsurgery.files.locks import Lock, is_own, owner
from graphsurgery.files.temporary import (
    FOLDER_LOCK,
    JOURNAL,
    LONGEST_JOURNAL,
    clear,
    clear_once,
    clear_system,
    inside,
    is_internal,
    made,
    reserved,
    to_disk,
)

Result = TypeVar("Result")

PATIENCE = 2.0  # seconds: those who look for leftovers hold a lock for a moment
_COMMIT_PATIENCE = 10.0  # for files to be put in their places, or for a virus scanner to let go of one
_POLL = 0.02
_ATTEMPTS = 3
_ABOVE = 2
_NEW, _FORMAT = "new", 1


class Draft:
    """Files on their way into `folder`: what lies in `work`."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder, self._place = folder, place
        self.work = place / _NEW

    def publish(self, own: Collection[str], last: str) -> None:
        """Put the files in `work` in their places, `last` behind all others, and remove what else is in `own`.

        `own` are the files in the folder that an earlier run wrote; like `last` they are relative paths with /. Raises
        InputError, having changed nothing, where another file stands in the way or one is open on Windows.
        """
        put = [p.relative_to(self.work).as_posix() for p in self.work.rglob("*") if p.is_file()]
        put.sort(key=lambda name: (name == last, name))
        for name in put:
            self._require_free(name, own)
        kept = {name.casefold(): name for name in put}
        gone = [
            name
            for name in sorted(set(own) - set(put))
            if os.path.lexists(self.folder / name) and not self._are_one(name, kept.get(name.casefold()))
        ]
        journal = {"format": _FORMAT, "from": self._place.name, "remove": gone, "put": put}
        (self._place / JOURNAL).write_text(json.dumps(journal), encoding="utf-8")
        for path in (*self._place.rglob("*"), self._place):
            to_disk(path)
        try:
            (self._place / JOURNAL).replace(self.folder / JOURNAL)  # the commit point
            to_disk(self.folder)
            _finish(self.folder)
        except InputError:
            raise
        except BaseException:  # Ctrl-C: what has begun is brought to its end
            _finish(self.folder)
            raise

    def _require_free(self, name: str, own: Collection[str]) -> None:
        """Raise InputError unless `name` can be put into the folder: nothing is there, or a file of an earlier run."""
        target = self.folder / name
        if not _leads_inside(self.folder, name):
            raise InputError(f"{target}: a link leads out of the folder; remove it")
        for parent in target.relative_to(self.folder).parents:
            if os.path.lexists(self.folder / parent) and not (self.folder / parent).is_dir():
                raise InputError(f"{self.folder / parent}: is in the way, and no run wrote it; move it")
        if not os.path.lexists(target):
            return
        if name not in own and not any(self._are_one(name, each) for each in own if each.casefold() == name.casefold()):
            raise InputError(f"{target}: is in the way, and no run wrote it; move it")
        if os.name == "nt":
            target.replace(target)  # refused where it is open: better now than when others were replaced

    def _are_one(self, name: str, other: str | None) -> bool:
        """Whether two names are of one file: the file system may ignore case."""
        try:
            return other is not None and (self.folder / name).samefile(self.folder / other)
        except OSError:
            return False


@contextlib.contextmanager
def writing(
    folder: Path, patience: float = PATIENCE, waiting: Callable[[str], object] = lambda owner: None
) -> Iterator[Draft]:
    """Lock `folder`, which is made where it isn't there, and yield a draft, which vanishes unless it is published.

    Where another process writes into it, `waiting` is told which, and `patience` is how many seconds to wait. Raises
    InputError then, and where this process itself does; OSError where the folder can't be written.
    """
    with made(folder), locked(folder, patience, waiting):
        _finish(folder)
        clear(folder)
        with reserved(folder) as place:
            (place / _NEW).mkdir(parents=True)
            yield Draft(folder, place)


def write_together(files: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write each file by what is to be called with a path for it, and put all of them in their places at one point.

    Where they lie in several folders each has a point of its own, the last folder's last, when all are written. Raises
    InputError, having changed no file, where another process writes into a folder for too long; OSError.
    """
    names: dict[Path, list[Path]] = {}
    for path in files:
        names.setdefault(path.parent, []).append(path)
    with contextlib.ExitStack() as stack:
        drafts = {folder: stack.enter_context(writing(folder, _COMMIT_PATIENCE)) for folder in names}
        for path, write in files.items():
            write(drafts[path.parent].work / path.name)
        for folder, draft in drafts.items():
            own = [path.name for path in names[folder]]
            draft.publish(own, own[-1])


@contextlib.contextmanager
def filled_together(targets: Sequence[Path]) -> Iterator[Sequence[Path]]:
    """Yield a name beside each of `targets` to write to, for as long as that takes; at the end all take their places.

    If anything is raised nothing is left of them, and what was there stays. No folder is locked until the end. Raises
    as `write_together`.
    """
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(reserved(target.parent, target.suffix)) for target in targets]
        yield names
        write_together({target: name.replace for target, name in zip(targets, names, strict=True)})


def recover(folder: Path) -> None:
    """Finish what a killed run had begun to put into `folder`, or into one above of which it is a part.

    What killed runs left there otherwise is removed. Where a living one is at it, it is waited for. Raises InputError
    where that takes too long or can't be done.
    """
    for place in _with_parent(folder):
        deadline = time.monotonic() + _COMMIT_PATIENCE
        while _is_under_way(place):
            try:
                lock = Lock.take(place / FOLDER_LOCK)
                if lock is not None:
                    try:
                        _finish(place)
                    finally:
                        lock.release()
                    break
            except OSError as error:
                raise InputError(
                    f"{place}: a run that was killed left it half new, and it can't be written ({error.strerror}); "
                    "run any command on it where it can"
                ) from error
            if time.monotonic() > deadline:
                who = owner(place / FOLDER_LOCK)
                raise InputError(f"{place}: {who} has been replacing its files for too long; see what it waits for")
            time.sleep(_POLL)
    clear_system()
    for place in (folder, *folder.absolute().parents[:_ABOVE]):  # above lies what says that `folder` was to be made
        clear_once(place)


def read_whole(folder: Path, last: str, read: Callable[[], Result]) -> Result:
    """Return what `read` makes of `folder`, read again as long as files are being replaced in it meanwhile.

    `last` is the file that is replaced last. Raises what `read` raises, and InputError where there is no end to it.
    """
    recover(folder)
    places = _with_parent(folder)
    deadline = time.monotonic() + _COMMIT_PATIENCE
    for attempt in itertools.count(1):
        before = _edition(places, folder / last)
        try:
            found = read()
        except Exception:
            if before is not None and _edition(places, folder / last) == before:
                raise
        else:
            if before is not None and _edition(places, folder / last) == before:
                return found
        if attempt >= _ATTEMPTS and time.monotonic() > deadline:
            break
        recover(folder)
    raise InputError(f"{folder}: its files are replaced again and again; read it when that has ended")


def edition(folder: Path, last: str) -> object:
    """Return what tells one state of `folder` from another; None while files are being replaced."""
    return _edition([folder], folder / last)


def _edition(places: Sequence[Path], last: Path) -> object:
    if any(map(_is_under_way, places)):
        return None
    try:
        status = last.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size
    except OSError:
        return 0


def _with_parent(folder: Path) -> Sequence[Path]:
    return folder, folder.resolve().parent


@contextlib.contextmanager
def locked(
    folder: Path, patience: float = PATIENCE, waiting: Callable[[str], object] = lambda owner: None
) -> Iterator[None]:
    """Keep everybody else from writing into `folder`, which is there, for as long as the body takes.

    `waiting` and `patience` as in `writing`. Raises InputError where somebody else is at it for longer.
    """
    path = folder / FOLDER_LOCK
    begin, told = time.monotonic(), ""
    while (lock := _take(path)) is None:
        who = owner(path)
        if time.monotonic() > begin + PATIENCE and is_own(path):
            raise InputError(f"{folder}: this run writes other files there; give another folder for one of the two")
        if time.monotonic() > begin + patience:
            raise InputError(f"{folder}: {who} is writing into it; wait for its end, or give another folder")
        if who != told:
            waiting(told := who)
        time.sleep(_POLL)
    try:
        yield
    finally:
        lock.release()


def _take(path: Path) -> Lock | None:
    try:
        return Lock.take(path)
    except FileNotFoundError:  # the folder was empty, and whoever had made it has removed it
        path.parent.mkdir(parents=True, exist_ok=True)
        return None


def _is_under_way(folder: Path) -> bool:
    """Whether there is a journal that was written by this user, or by the owner of the folder."""
    try:
        status = (folder / JOURNAL).stat()
        return os.name == "nt" or status.st_uid in (os.getuid(), folder.stat().st_uid)
    except OSError:
        return False


def _finish(folder: Path) -> None:
    """Do what is left of the journal in `folder`, whose lock is held. Raises InputError where that can't be done."""
    if not _is_under_way(folder):
        return
    journal = folder / JOURNAL
    try:
        content = read_json(journal, LONGEST_JOURNAL)
        source, gone, put = f"{content['from']}/{_NEW}", list(content["remove"]), list(content["put"])
        if content["format"] != _FORMAT or not is_internal(source):
            raise ValueError("another version wrote it")
        outside = [name for name in (*gone, *put, source) if not _leads_inside(folder, name)]
        if outside:
            raise ValueError(f"'{outside[0]}' is not in the folder")
    except FileNotFoundError:  # another process has done it
        return
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{journal}: can't be used ({error}); remove it, and make the folder anew") from error
    try:
        for name in gone:
            (folder / name).unlink(missing_ok=True)
        for name in put:
            _put(folder / source / name, folder / name)
    except OSError as error:
        raise InputError(
            f"{folder}: the new files are there, but can't take their places ({error.filename}: {error.strerror}); "
            "close what has that one open, and run any command on the folder"
        ) from error
    for changed in {(folder / name).parent for name in put}:
        to_disk(changed)
    emptied = {folder / parent for name in gone for parent in PurePosixPath(name).parents[:-1]}
    for parent in sorted(emptied, reverse=True):
        with contextlib.suppress(OSError):  # it is not empty: something of the user's is there
            parent.rmdir()
    journal.unlink(missing_ok=True)


def _put(source: Path, target: Path) -> None:
    deadline = time.monotonic() + _COMMIT_PATIENCE
    while source.exists():  # else it is in its place
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
        except FileNotFoundError:
            continue
        except PermissionError:
            if os.name != "nt" or time.monotonic() > deadline:
                raise
            time.sleep(_POLL)


def _leads_inside(folder: Path, name: object) -> bool:
    """Whether a path of a journal stays in `folder`, links followed."""
    return inside(name) is not None and (folder / str(name)).parent.resolve().is_relative_to(folder.resolve())
