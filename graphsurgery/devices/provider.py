"""What a provider and its options are, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graphsurgery import files
from graphsurgery.errors import did_you_mean


@dataclass(frozen=True)
class Option:
    """An option of a provider. An `integer` lies in `limits`; a `file` must exist; what a `folder` or a `path` names is
    made when needed; a `name` is no path.

    `default` is given to the provider where the user says nothing. With `writes_here` the provider writes files into
    the working directory, and can't be told another place.
    """

    name: str
    help: str
    kind: Literal["text", "choice", "integer", "file", "folder", "path", "name"] = "text"
    choices: tuple[str, ...] = ()
    limits: tuple[int, int] = (0, 2**31 - 1)
    default: str | None = None
    writes_here: bool = False

    def checked(self, value: str) -> str:
        """Return `value` as the provider wants it. Raises ValueError, saying what it must be."""
        if self.kind == "choice":
            same = [choice for choice in self.choices if choice.lower() == value.lower()]
            if not same:
                raise ValueError(f"must be one of {', '.join(self.choices)}.{did_you_mean(value, self.choices)}")
            return same[0]
        if self.kind == "integer":
            low, high = self.limits
            if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
                raise ValueError(
                    f"must be an integer {f'of at least {low}' if high > 10**9 else f'from {low} to {high}'}"
                )
            return str(int(value))
        if not value:
            raise ValueError("must not be empty")
        if self.kind == "file" and not Path(value).is_file():
            raise ValueError("there is no such file")
        if self.kind == "name" and not files.is_plain_name(value):
            raise ValueError("must be the name of a folder, and no path")
        if self.kind == "folder" and Path(value).is_file():
            raise ValueError("that is a file; give a folder")
        return str(Path(value).resolve()) if self.kind in ("file", "folder") else value


@dataclass(frozen=True)
class Provider:
    """An ONNX Runtime execution provider: its name there, what brings it, its options, and what it refuses of a part.

    What it takes of a node, `target` says, by its name. `plugin` is the Python package with its library where it is
    not built into ONNX Runtime.
    """

    ort_name: str
    install: str
    options: tuple[Option, ...] = ()
    refuses: tuple[str, ...] = ()
    target: str | None = None
    plugin: str | None = None
    memory_pattern: bool = True

    def option(self, name: str) -> Option | None:
        """Return the option of that name, None where there is none."""
        return next((option for option in self.options if option.name == name), None)
