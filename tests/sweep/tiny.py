"""A network of two layers with a recipe, and plug-ins of which a job dies, hangs, or fills the memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import psutil
from PIL import Image

from graphsurgery.sweep.job import Job, Limits
from graphsurgery.testing import parse

NETWORK = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 8, 8] image) => (float[1, 4, 8, 8] y) <float[4, 3, 3, 3] w = {WEIGHTS}> {
        a = Conv <pads = [1, 1, 1, 1]> (image, w)
        y = KIND (a)
    }"""
RECIPE = """\
source: {onnx: net.onnx}
image: {channels: RGB}
capture: {samples: 1}
partition: {at: {tensors: [a]}, parts: {net: npu, rest: cpu}}
variants:
  twice: {part_passes: {net: [merge-transposes]}}
"""
PLUGINS = {
    "dies": "import os\nos._exit(7)\n",
    "hangs": "import time\ntime.sleep(600)\n",
    "eats": "import time\nheld = b'x' * 700_000_000\ntime.sleep(60)\n",
    "slow": "import os, time\ntime.sleep(1.5)\nos._exit(0)\n",
}


def network(folder: Path, name: str = "net.onnx", kind: str = "Relu") -> Path:
    """Write the network, with a picture beside it."""
    weights = np.random.default_rng(0).standard_normal(108).round(3)
    text = NETWORK.replace("WEIGHTS", ", ".join(map(str, weights))).replace("KIND", kind)
    onnx.save(parse(text), folder / name)
    photos = folder / "photos"
    photos.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (8, 8, 3), np.uint8)).save(photos / "1.png")
    return folder / name


def recipe(folder: Path, name: str = "net.yaml", text: str = RECIPE) -> Path:
    """Write the recipe and the network."""
    network(folder)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def plugin(folder: Path, name: str) -> Path:
    """Write one of PLUGINS."""
    path = folder / f"{name}.py"
    path.write_text(PLUGINS[name], encoding="utf-8")
    return path


def processes() -> set[int]:
    """Return what this process has begun, of others' tests too, and what those have."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def job(name: str, *commands: tuple[str, ...], seconds: float = 100.0, memory_mb: int = 4000) -> Job:
    """Make a job."""
    return Job(name, name, None, None, commands, f"key of {name}", Limits(seconds, memory_mb))


def bad_job(folder: Path, name: str, **limits: float) -> Job:
    """Make a job that ends as one of PLUGINS lets it."""
    return job(name, ("passes", "--plugin", str(plugin(folder, name))), **limits)  # type: ignore[arg-type]
