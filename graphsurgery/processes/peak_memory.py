"""How much memory something takes while it runs, which tells whether something larger will fit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

_SECONDS = 0.02  # between two looks
_SHARE = 0.8  # of the free memory that may be asked for: others need some, and what is told beforehand is a guess


@dataclass
class Room:
    """Whether work of a size fits into memory, told by what smaller work took: bytes for each element of its input."""

    bytes_per_element: float = 0.0

    @contextmanager
    def measured(self, elements: int) -> Iterator[None]:
        """Take note of what the body, which works on so many elements, takes at most beyond what was taken before."""
        process, done = psutil.Process(), threading.Event()
        before = highest = process.memory_info().rss

        def look() -> None:
            nonlocal highest
            while not done.wait(_SECONDS):
                highest = max(highest, process.memory_info().rss)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            highest = max(highest, process.memory_info().rss)
            self.bytes_per_element = max(self.bytes_per_element, (highest - before) / elements)

    def needed(self, elements: int) -> int:
        """Return how many bytes work on so many elements takes, 0 where nothing was measured."""
        return int(self.bytes_per_element * elements)

    def fits(self, elements: int) -> bool:
        """Whether that much memory is free."""
        return self.needed(elements) <= free_bytes() * _SHARE


def free_bytes() -> int:
    """Return how much memory the machine has left."""
    return int(psutil.virtual_memory().available)
