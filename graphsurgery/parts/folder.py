"""The output folder: written beside its place, then put there in one step, so that it is never half old, half new."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from types import TracebackType

from graphsurgery import files
from graphsurgery.errors import InputError
from graphsurgery.parts.manifest import FILE_NAME, MOST_BYTES

RECORD = "run.json"
REPORT = "report.html"


class OutputFolder:
    """A folder that takes the place of `path` when `publish` is called, and vanishes if it is not.

    `work` is where to write. Raises InputError right away when `path` can't be written or holds something that no
    run wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # '.' has no name to put another beside, and a link must go on pointing at the folder
        self._place = path.resolve()
        if not self._place.name:
            raise InputError(f"{path}: is no folder that can be replaced; give another folder with --out")
        self.work = self._place.with_name(f".{self._place.name}.{os.getpid()}.tmp")
        self._old = self._place.with_name(f".{self._place.name}.{os.getpid()}.old")
        self._new_parents = [parent for parent in self._place.parents if not parent.exists()]

    def __enter__(self) -> OutputFolder:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file; give another folder with --out")
        try:
            if self.path.is_dir() and any(self.path.iterdir()) and _files_of_run(self.path) is None:
                raise InputError(f"{self.path}: holds files that are not parts; give another folder with --out")
            self.work.mkdir(parents=True)
            if self.path.is_dir() and not os.access(self.path, os.W_OK):
                raise PermissionError(13, "no permission to write")
        except BaseException as error:  # Ctrl-C too: nobody else would remove what was just made
            self._remove_work()
            if isinstance(error, OSError):
                raise InputError(
                    f"{self.path}: can't be written ({files.reason(error)}); give another --out"
                ) from error
            raise
        return self

    def make_folder(self, name: str) -> Path:
        """Make a folder in the folder to be. Raises InputError when the disk is full or gone."""
        try:
            (self.work / name).mkdir()
        except OSError as error:
            raise InputError(f"{self.path / name}: can't be made ({error.strerror})") from error
        return self.work / name

    def write_text(self, name: str, text: str) -> None:
        """Write a text file into the folder to be. Raises InputError when the disk is full or gone."""
        try:
            (self.work / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{self.path / name}: can't be written ({error.strerror})") from error

    def publish(self) -> None:
        """Put the new folder in the place of the old one; the user's own files in the old one move along.

        What the old folder's manifest does not name is the user's. Raises InputError, having changed nothing, when
        the old folder can't be replaced, or when a file of the user's stands where a new one would.
        """
        try:
            kept = self._users_files()
            for name in kept:
                if (self.work / name).exists():
                    raise InputError(f"{self.path / name}: is in the way, and no run wrote it; move it")
            try:
                if self._place.exists():
                    self._place.rename(self._old)
                self.work.rename(self._place)
            finally:
                if self._old.exists() and not self._place.exists():
                    self._old.rename(self._place)
        except OSError as error:
            raise InputError(f"{self.path}: can't be replaced ({error.strerror}); is a file in it open?") from error
        try:
            for name in kept:
                (self._old / name).rename(self._place / name)
        except OSError as error:
            where = f"{self._old} ({error.strerror})"
            raise InputError(f"{self.path}: the new parts are there, but other files were left in {where}") from error
        shutil.rmtree(self._old, ignore_errors=True)

    def _users_files(self) -> list[str]:
        if not self._place.is_dir():
            return []
        own = _files_of_run(self._place) or set()
        return sorted(entry.name for entry in self._place.iterdir() if entry.name not in own)

    def _remove_work(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        for parent in self._new_parents:
            with contextlib.suppress(OSError):  # it is not empty: something was put there
                parent.rmdir()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove_work()


def _files_of_run(folder: Path) -> set[str] | None:
    """Return the names of what a run wrote into `folder`; None when there is no manifest of ours.

    It may be another version's manifest, so no more of it is read than that.
    """
    try:
        manifest = files.read_json(folder / FILE_NAME, MOST_BYTES)
        if "graphsurgery" not in manifest:
            return None
        own = {FILE_NAME, RECORD, REPORT, *(str(part["file"]) for part in manifest["parts"])}
        return own | {str(name) for name in manifest.get("variants", ())}
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # no manifest.json, or somebody else's
        return None
