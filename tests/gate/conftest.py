"""The tiny network of drawn recipes, and what was captured of it."""

from __future__ import annotations

import numpy as np
import pytest

from gate.drawn_recipes import Tiny, image_of
from graphsurgery.capture.samples import Sample


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="module")
def captured(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("model_io")
    samples = []
    for seed in range(2):
        image = image_of(seed)
        (folder / str(seed)).mkdir()
        for name, value in tiny.computed(image).items():
            np.save(folder / str(seed) / f"{name}.npy", value)
        samples.append(Sample(str(seed), folder / str(seed), None, 8, 8))
    return samples
