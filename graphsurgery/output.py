"""The output folder: written beside its place, then put there in one step, so that it is never half old, half new."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import TracebackType

from graphsurgery.errors import InputError
from graphsurgery.manifest import FILE_NAME

# What a run writes; anything else in the folder is the user's and is kept.
OWN_SUFFIXES = (".onnx",)
OWN_FILES = (FILE_NAME, "run.json")


class OutputFolder:
    """A folder that takes the place of `path` when `publish` is called, and vanishes if it is not.

    `work` is where to write. Raises InputError right away when `path` can't be written or holds something that no
    run wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._old = path.with_name(f".{path.name}.{os.getpid()}.old")

    def __enter__(self) -> OutputFolder:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file; give another folder with --out")
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / FILE_NAME).is_file():
            raise InputError(f"{self.path}: holds files that are not parts; give another folder with --out")
        try:
            self.work.mkdir(parents=True)
            if self.path.is_dir() and not os.access(self.path, os.W_OK):
                raise PermissionError(13, "no permission to write")
        except OSError as error:
            self._remove_work()
            raise InputError(f"{self.path}: can't be written ({error.strerror}); give another --out") from error
        return self

    def write_text(self, name: str, text: str) -> None:
        """Write a text file into the folder to be. Raises InputError when the disk is full or gone."""
        try:
            (self.work / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{self.path / name}: can't be written ({error.strerror})") from error

    def publish(self) -> None:
        """Put the new folder in the place of the old one; the user's own files in the old one move along."""
        try:
            if self.path.exists():
                self.path.rename(self._old)
            self.work.rename(self.path)
        except OSError as error:
            if self._old.exists() and not self.path.exists():
                self._old.rename(self.path)
            raise InputError(f"{self.path}: can't be replaced ({error.strerror}); is a file in it open?") from error
        if self._old.exists():
            for entry in self._old.iterdir():
                if entry.suffix not in OWN_SUFFIXES and entry.name not in OWN_FILES:
                    entry.rename(self.path / entry.name)
            shutil.rmtree(self._old, ignore_errors=True)

    def _remove_work(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove_work()
