"""A part of a detector: its graph, and where it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphsurgery.graph.model import Model


@dataclass(frozen=True)
class Part:
    """One part of a cut detector: a model of its own, run on `device`."""

    name: str
    device: str
    accelerator: bool
    model: Model


def is_numpys(dtype: np.dtype[Any]) -> bool:
    """Whether NumPy itself has `dtype`: ONNX Runtime takes and gives no other (bfloat16, float8, int4)."""
    return dtype.isbuiltin == 1
