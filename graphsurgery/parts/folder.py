"""The folder of parts: written beside what is there and published at one point, read as of one run."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TypeVar

from graphsurgery import files
from graphsurgery.errors import InputError
from graphsurgery.files.commit import read_whole, writing
from graphsurgery.files.temporary import is_internal
from graphsurgery.graph.model import DATA_SUFFIX
from graphsurgery.parts.manifest import COMPILED, COMPILED_FILE, FILE_NAME, MOST_BYTES, Manifest, PartEntry

RECORD = "run.json"
REPORT = "report.html"

Result = TypeVar("Result")


def read_parts(folder: Path, read: Callable[[Manifest], Result]) -> Result:
    """Return what `read` makes of the manifest in `folder` and its parts, which are all of one run.

    Raises InputError where there is no manifest, or a part is not the file that it describes; what `read` raises.
    """

    def read_one_run() -> Result:
        manifest = Manifest.read(folder)
        for part in manifest.parts:
            _require_described(folder, part)
        return read(manifest)

    return read_whole(folder, FILE_NAME, read_one_run)


def _require_described(folder: Path, part: PartEntry) -> None:
    """Raise InputError where a part is not the file that was written with the manifest; `read` sees what is missing."""
    path, data = folder / part.file, folder / f"{part.file}{DATA_SUFFIX}"
    if part.data_size is not None and data.is_file() and data.stat().st_size != part.data_size:
        raise InputError(f"{data}: has {data.stat().st_size} bytes, and {FILE_NAME} says {part.data_size}; apply again")
    if part.sha256 is None or not path.is_file():
        return
    if path.stat().st_size != part.size or sha256_of(path) != part.sha256:
        raise InputError(
            f"{path}: is not the file that {FILE_NAME} describes; apply again, or, where it was changed on purpose, "
            f"take its size and sha256 out of {folder / FILE_NAME}"
        )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class OutputFolder:
    """A folder that takes the place of `path` when `publish` is called, and vanishes if it is not.

    `work` is where to write. Raises InputError right away when `path` can't be written, holds something that no
    run wrote, or is being written by another process.
    """

    work: Path

    def __init__(self, path: Path) -> None:
        self.path = path
        # '.' has no name to call it by, and a link must go on pointing at the folder
        self._place = path.resolve()
        if not self._place.name:
            raise InputError(f"{path}: is no folder that can be replaced; give another folder with --out")
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> OutputFolder:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file; give another folder with --out")
        try:
            if self._place.is_dir() and not os.access(self._place, os.W_OK):
                raise PermissionError(13, "no permission to write")
            self._draft = self._stack.enter_context(writing(self._place))
            if any(not is_internal(each.name) for each in self._place.iterdir()) and _files_of_run(self._place) is None:
                raise InputError(f"{self.path}: holds files that are not parts; give another folder with --out")
        except BaseException as error:  # Ctrl-C too: nobody else would remove what was just made
            self._stack.close()
            if isinstance(error, OSError):
                raise InputError(
                    f"{self.path}: can't be written ({files.reason(error)}); give another --out"
                ) from error
            raise
        self.work = self._draft.work
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

    def write_manifest(self, manifest: Manifest, name: str = "") -> Manifest:
        """Write the manifest of the parts that lie in the folder `name`; return it with their sizes and hashes."""
        parts = []
        for part in manifest.parts:
            path = self.work / name / part.file
            data = path.with_name(path.name + DATA_SUFFIX)
            found = {"size": path.stat().st_size, "sha256": sha256_of(path)}
            parts.append(part.model_copy(update=found | ({"data_size": data.stat().st_size} if data.is_file() else {})))
        manifest = manifest.model_copy(update={"parts": parts})
        self.write_text(f"{name}/{FILE_NAME}".lstrip("/"), manifest.to_json())
        return manifest

    def publish(self) -> None:
        """Put the new files in the places of the old ones; the user's own files are not touched.

        What the old folder's manifests do not name is the user's. Raises InputError, having changed nothing, when
        an old file can't be replaced, or when a file of the user's stands where a new one would.
        """
        try:
            self._draft.publish(_files_of_run(self._place) or (), FILE_NAME)
        except OSError as error:
            raise InputError(f"{self.path}: can't be replaced ({error.strerror}); is a file in it open?") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _files_of_run(folder: Path, *, with_variants: bool = True) -> set[str] | None:
    """Return what a run wrote into `folder`, as relative paths; None when there is no manifest of ours.

    It may be another version's manifest, so no more of it is read than that.
    """
    try:
        manifest = files.read_json(folder / FILE_NAME, MOST_BYTES)
        if "graphsurgery" not in manifest:
            return None
        names = [
            FILE_NAME,
            RECORD,
            REPORT,
            *(name for part in manifest["parts"] if (name := str(part["file"])).endswith(".onnx")),
            *(f"{part['file']}{DATA_SUFFIX}" for part in manifest["parts"] if part.get("data_size") is not None),
        ]
        variants = [str(name) for name in manifest.get("variants", ())] if with_variants else []
        compiled = filter(files.is_plain_name, map(str, manifest.get("compiled", ())))
        made = {file for name in compiled for file in files_of_compiler(folder, name)}
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # no manifest.json, or somebody else's
        return None
    below = {
        f"{name}/{file}"
        for name in filter(files.is_plain_name, variants)
        for file in _files_of_run(folder / name, with_variants=False) or ()
    }
    return below | made | set(filter(files.is_plain_name, names))


def files_of_compiler(folder: Path, name: str) -> set[str]:
    """Return what the compiler `name` made of the parts in `folder`, as relative paths, as far as it is told."""
    place = f"{COMPILED}/{name}"
    try:
        listed = files.read_json(folder / place / COMPILED_FILE, MOST_BYTES)["files"]
        paths = [str(path) for path in listed if all(map(files.is_plain_name, PurePosixPath(path).parts))]
    except (OSError, ValueError, TypeError, KeyError):
        return set()
    return {f"{place}/{path}" for path in (*paths, COMPILED_FILE)}
