"""Readers that each do one thing which the harness of the fuzzers must see, with good ones before and behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from fuzz_harness import Step, Trial

from graphsurgery.errors import InputError

held: list[bytes] = []


def good() -> None:
    pass


def refuses() -> None:
    raise InputError("broken")


def raises() -> None:
    raise KeyError("id")


def dies() -> None:
    os._exit(3)


def writes() -> None:
    Path("folder", "other").touch()


def grows() -> None:
    held.append(b"x" * (80 << 20))


def hangs() -> None:
    time.sleep(60)


CASES = (good, refuses, raises, dies, writes, grows, hangs, good)


def steps(seed: int) -> Iterator[Step]:
    yield "open", good
    yield "read", CASES[seed]


def opened(folder: Path) -> Trial:
    """Return a trial whose cases are those above."""
    return Trial(folder / "target", lambda seed: b"x" * seed, steps)
