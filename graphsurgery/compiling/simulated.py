"""What a simulator plays: a part that was compiled, found from the part's own file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graphsurgery.compiling.compiled import Compiled
from graphsurgery.errors import InputError
from graphsurgery.parts.folder import sha256_of
from graphsurgery.parts.manifest import COMPILED, COMPILED_FILE


@dataclass(frozen=True)
class CompiledPart:
    """The folder that holds all about a compiled part, and what compiled.json says of all of them."""

    folder: Path
    compiled: Compiled


def compiled_part(part: Path, compiler: str, name: str) -> CompiledPart:
    """Return what `compiler` made of the part whose file is `part`; `name` begins messages.

    Raises InputError where it made nothing of it, or of another file of that name.
    """
    place = part.parent / COMPILED / compiler
    again = f"python -m graphsurgery compile {part.parent} --with {compiler}"
    if not (place / COMPILED_FILE).is_file():
        raise InputError(f"{name}: '{compiler}' plays what was compiled, and nothing was; compile the parts: {again}")
    compiled = Compiled.read(place)
    if part.stem not in compiled.parts or not (place / part.stem).is_dir():
        raise InputError(f"{name}: was not compiled for '{compiler}' with the others; compile them all: {again}")
    if compiled.parts[part.stem] not in (None, sha256_of(part)):
        raise InputError(f"{name}: {place} was compiled of another file of that name; compile it once more: {again}")
    if not compiled.ran:
        raise InputError(f"{name}: {place} holds files that were not compiled yet; compile them: {again}")
    return CompiledPart(place / part.stem, compiled)


def ask_for(made: CompiledPart, wanted: Mapping[str, str | None], name: str) -> None:
    """Raise InputError unless a part was compiled with these options; those that are None are not asked for."""
    for option, value in wanted.items():
        there = made.compiled.options.get(option)
        if value is not None and there != value:
            raise InputError(
                f"{name}: was compiled with {option}={there}, and {value} is asked for; compile it for that"
            )
