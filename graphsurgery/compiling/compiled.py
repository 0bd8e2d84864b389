"""compiled.json: what a compiler made, of which parts, file by file."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from graphsurgery import files
from graphsurgery.compiling.placed import Placed
from graphsurgery.errors import InputError
from graphsurgery.parts.folder import sha256_of
from graphsurgery.parts.manifest import COMPILED_FILE, Tensor

_MOST_BYTES = 16 * files.MB


class File(BaseModel):
    """Size in bytes and SHA-256 of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    sha256: str


class Compiled(BaseModel):
    """What a compiler made.

    `parts` are the SHA-256 of the parts by name, `ran` says whether its tool was run, `samples` are the stems of the
    images that were written for it, in their order, `files` are all others by their paths from here. `whole` are the
    outputs of all parts as one model, where it was that which the compiler had, with their sizes as far as the graph or
    all images tell them. `placed` says of parts where their layers run, as far as the tool does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    compiler: str
    options: dict[str, Any]
    parts: dict[str, str | None]
    ran: bool
    samples: list[str]
    whole: dict[str, Tensor] | None = None
    placed: dict[str, Placed] = {}
    files: dict[str, File] = {}

    @field_validator("files")
    @classmethod
    def _lie_inside(cls, found: dict[str, File]) -> dict[str, File]:
        for path in found:
            if not all(files.is_plain_name(piece) for piece in PurePosixPath(path).parts):
                raise ValueError(f"'{path[:80]}' is no file in the folder")
        return found

    @staticmethod
    def read(folder: Path) -> Compiled:
        """Read what was compiled into `folder`. Raises InputError where nothing was."""
        path = folder / COMPILED_FILE
        try:
            return Compiled.model_validate_json(files.read_bytes(path, _MOST_BYTES))
        except OSError as error:
            raise InputError(f"{path}: can't be read ({files.reason(error)}); run `compile` first") from error
        except ValidationError as error:
            raise InputError(f"{path}: not what this version writes: {files.first_fault(error)}") from error

    def write(self, folder: Path) -> Compiled:
        """Write compiled.json into `folder`, with what lies there; return it so. Raises OSError."""
        there = sorted(path for path in folder.rglob("*") if path.is_file())
        found = {
            path.relative_to(folder).as_posix(): File(size=path.stat().st_size, sha256=sha256_of(path))
            for path in there
        }
        whole = self.model_copy(update={"files": found})
        content = json.dumps(whole.model_dump(mode="json"), indent=1) + "\n"
        (folder / COMPILED_FILE).write_text(content, encoding="utf-8")
        return whole
