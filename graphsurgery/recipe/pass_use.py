"""A pass as a recipe uses it."""

from __future__ import annotations

from dataclasses import dataclass

from graphsurgery.rewrite import Pass


@dataclass(frozen=True)
class PassUse:
    """A pass with its options, and where the recipe says so; `line` is None for --set."""

    pass_: Pass
    name: str
    file: str
    line: int | None
