"""Who wants to know how far a piece of work is, and how the work says it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Progress = Callable[[int, int], None]  # called with how many pieces are done, and of how many


def silent(done: int, total: int) -> None:
    """Tell nobody how far the work is."""


class Watcher(Protocol):
    """Who wants to know how far a run is; the command line draws it."""

    def begin(self, what: str) -> None:
        """Something that takes a while starts."""

    def advance(self, done: int, total: int) -> None:
        """So many of so many pieces of it are done."""


class Silent:
    """A watcher that does not look."""

    def begin(self, what: str) -> None: ...
    def advance(self, done: int, total: int) -> None: ...
    def finished(self, step: object) -> None: ...
