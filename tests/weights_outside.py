"""Models whose weights lie in a file of their own, as those have that are above 2 GB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from graphsurgery.testing import parse


def written(path: Path, text: str, shapes: Mapping[str, Sequence[int]]) -> Path:
    """Write the model of `text` with random float32 weights of these shapes in a file beside `path`, and return that.

    In the text stands something small for each of them.
    """
    random, proto = np.random.default_rng(0), parse(text)
    del proto.graph.initializer[:]
    for name, shape in shapes.items():
        proto.graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    onnx.save(proto, path, save_as_external_data=True, location=f"{path.stem}.bin", size_threshold=0)
    return path
