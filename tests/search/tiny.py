"""A part of two layers and its samples, a pass that crashes or hangs on demand, and searches on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphsurgery.capture.samples import Sample
from graphsurgery.graph.model import Model
from graphsurgery.parts.part import Part
from graphsurgery.recipe.pass_use import PassUse
from graphsurgery.recipe.search import Choice, Search
from graphsurgery.rewrite.registry import discover
from graphsurgery.testing import parse

NETWORK = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 8, 8] image) => (float[1, 4, 8, 8] y)
      <float[4, 3, 3, 3] w = {FIRST}, float[4, 4, 1, 1] v = {SECOND}> {
        [first] a = Conv <pads = [1, 1, 1, 1]> (image, w)
        b = Relu (a)
        [second] y = Conv (b, v)
    }"""
PLUGIN = """
import os, time
from dataclasses import dataclass
from graphsurgery.rewrite import ModelPass

@dataclass(frozen=True)
class Odd(ModelPass):
    name = "odd"
    effect = "approximate"
    what: str = "fine"
    number: int = 0

    def rewrite(self, model, edit):
        if self.what == "dies":
            os._exit(7)
        if self.what == "hangs":
            time.sleep(600)
        return model
"""


def part() -> Part:
    """Make the part `net`."""
    values = np.random.default_rng(0).standard_normal(124).round(3)
    numbers = [", ".join(map(str, each)) for each in (values[:108], values[108:])]
    model = parse(NETWORK.replace("FIRST", numbers[0]).replace("SECOND", numbers[1]))
    return Part("net", "npu", True, Model(model))


def samples(folder: Path) -> list[Sample]:
    """Write two samples of the part's input."""
    made = []
    for number in range(2):
        place = folder / f"sample{number}"
        place.mkdir(parents=True)
        values = np.random.default_rng(number).standard_normal((1, 3, 8, 8)).astype(np.float32)
        np.save(place / "image.npy", values)
        made.append(Sample(f"sample{number}", place, None, 8, 8))
    return made


def quantizing(trials: int = 4, sqnr: float = 20.0) -> tuple[Search, dict[str, tuple[PassUse, ...]]]:
    """Look for bits and for layers that stay float."""
    pass_ = discover().get("quantize")()
    choices = (
        Choice("net", 0, "activations", ("uint8", "uint16")),
        Choice("net", 0, "exclude", worst=1),
    )
    return Search(choices, sqnr, None, trials, 0, 60.0, 4000), {"net": (PassUse(pass_, "quantize", "r.yaml", 1),)}


def odd(
    folder: Path, *what: str, numbers: int = 1, seconds: float = 60.0
) -> tuple[Search, dict[str, tuple[PassUse, ...]]]:
    """Look among what a plug-in's pass does: fine, dies or hangs."""
    path = folder / "odd.py"
    path.write_text(PLUGIN, encoding="utf-8")
    pass_ = discover([path]).get("odd")()
    choices = (Choice("net", 0, "what", what), Choice("net", 0, "number", tuple(range(numbers))))
    return Search(choices, 0.0, None, 100, 0, seconds, 4000), {"net": (PassUse(pass_, "odd", "r.yaml", 1),)}
