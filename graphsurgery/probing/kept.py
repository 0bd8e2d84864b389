"""What a probe has measured so far, in a file beside its results: the same probe, typed again, goes on there."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from graphsurgery.errors import InputError
from graphsurgery.files import reason, written_whole
from graphsurgery.targets.measured import Measurements, Tool, read_measurements

SECONDS = 10.0  # at least, between two writes: a case takes less than one


@dataclass
class Kept:
    """The file that what is measured goes to until all of it is; `beside` is where all of it goes."""

    beside: Path
    seconds: float = field(default_factory=lambda: SECONDS)
    _latest: Measurements | None = None
    _written: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> Path:
        """Where it is: mine.measured.part.json for mine.measured.json."""
        return self.beside.with_name(f"{self.beside.stem}.part.json")

    def before(self, target: str, tool: Tool) -> Measurements | None:
        """Return what an earlier probe of a target left; None where it left nothing, or another tool measured it.

        Raises InputError for a file of another kind.
        """
        if not self.path.is_file():
            return None
        found = read_measurements(self.path)
        return found if (found.target, found.tool) == (target, tool) else None

    def __call__(self, found: Measurements) -> None:
        """Take what is measured by now, and write it where the last writing is some time ago."""
        self._latest = found
        if time.monotonic() - self._written >= self.seconds:
            self.write()

    def write(self) -> bool:
        """Write what came last, whole or not at all; return whether there is anything in the file."""
        if self._latest is None or not self._latest.cases:
            return False
        try:
            with written_whole(self.path) as path:
                path.write_text(self._latest.text(), encoding="utf-8", newline="\n")
        except OSError as error:
            raise InputError(f"{self.path}: can't be written ({reason(error)})") from error
        self._written = time.monotonic()
        return True

    def drop(self) -> None:
        """Remove the file: all is measured, and where it belongs."""
        self.path.unlink(missing_ok=True)
