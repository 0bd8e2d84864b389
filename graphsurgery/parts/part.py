"""A part of a detector: its graph, and where it runs."""

from __future__ import annotations

from dataclasses import dataclass

from graphsurgery.graph.model import Model


@dataclass(frozen=True)
class Part:
    """One part of a cut detector: a model of its own, run on `device`."""

    name: str
    device: str
    accelerator: bool
    model: Model
