"""Jobs to be compiled, of small parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphsurgery.compiling import Job, Sample
from graphsurgery.graph.model import Model
from graphsurgery.images.canvas import Canvas
from graphsurgery.images.preprocessing import Preprocessing
from graphsurgery.parts.describe import describe_part
from graphsurgery.parts.part import Part
from graphsurgery.testing import parse


def job(text: str, folder: Path, name: str = "network", image: str | None = "x", **preprocessing: object) -> Job:
    """A part that is one graph, whose canvas is 4 x 6 pixels."""
    model = Model(parse(text))
    canvas = Canvas(4, 6, image=Preprocessing(**preprocessing))  # type: ignore[arg-type]
    folder.mkdir(exist_ok=True)
    return Job(describe_part(Part(name, "npu", True, model)), model, canvas, image, folder)


def sample(number: int = 0, **inputs: np.ndarray) -> Sample:
    """An image of 40 x 60 pixels whose canvas counts up, and what a part reads of it."""
    pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    return Sample(number, f"photo{number}", (40, 60), pixels, inputs, {"y": np.arange(4.0, dtype=np.float32)})
