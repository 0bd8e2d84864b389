"""What the command line says beside a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphsurgery.graph.model import EXTERNAL_FROM


@dataclass(frozen=True)
class Options:
    """What the command line says beside the recipe; None leaves it to the recipe.

    `workers` processes evaluate, None: as many as pay. More than this one import the main module, so that a script that
    asks for them needs its `if __name__ == "__main__":`. As many do the trials of a search, unless `scheduler` names a
    dask cluster that does. With `allow_fallback` a variant's provider may leave nodes to the CPU. Parts
    that have `external_from` bytes together keep their weights in files beside them.
    """

    out: Path
    model_io: Path
    images: Path | None = None
    annotations: Path | None = None
    max_samples: int | None = None
    check: bool = True
    variants: Sequence[str] | None = None
    workers: int | None = 1
    allow_fallback: bool = False
    external_from: float = EXTERNAL_FROM
    scheduler: str | None = None
