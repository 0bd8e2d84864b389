"""The scales of the style systolic: one for each tensor, around 0.

A weight has 2 max|w| / 254, another tensor max(|low|, |high|) / 127; where that is 0 it is 1. A tensor that only a Relu
reads needs nothing below 0, and where only a MaxPool reads what the Relu writes, the pool's range will do.

Source: onnxruntime-riscv 0c8c9b4, systolic_runner/quantization/calibrate.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from graphsurgery.graph.protos import bodies, domain_of, names_read
from graphsurgery.quantize.ranges import Range, no_range
from graphsurgery.quantize.restore import Normalised

__all__ = ["MOST", "Scales"]

MOST = 127  # of int8, whose -128 has no counterpart


class Scales:
    """Finds the scales of a model's tensors from their ranges; `weights` are its float initializers by name."""

    def __init__(self, given: Normalised, found: Mapping[str, Range]) -> None:
        graph = given.model.graph
        self.weights = {each.name: each for each in graph.initializer if each.data_type == TensorProto.FLOAT}
        self._given, self._found = given, found
        outer = {name for node in graph.node if bodies(node) for name in names_read(node)}
        self._needed = outer | {info.name for info in graph.output}  # as they are
        self._readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def step(self, name: str, node: NodeProto) -> float:
        """Return the scale of a tensor; `node` reads or writes it. Raises InputError where it has no finite range."""
        if name in self.weights:
            values = numpy_helper.to_array(self.weights[name])
            low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        else:
            low, high = self._span(name)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise no_range(self._given.text(name), node)
        return float(np.float32(max(abs(low), abs(high)) / MOST)) or 1.0

    def readers(self, name: str) -> list[NodeProto]:
        """Return the nodes that read a tensor; none where bodies or the model's user do, too."""
        return [] if name in self._needed else self._readers.get(name, [])

    def _span(self, name: str) -> Range:
        span, relu = self._found[name], self._only_reader(name, "Relu")
        if relu is None:
            return span
        pool = self._only_reader(relu.output[0], "MaxPool")
        low, high = self._found[pool.output[0]] if pool is not None else span
        return Range(max(low, 0.0), max(high, 0.0))

    def _only_reader(self, name: str, op_type: str) -> NodeProto | None:
        """Return the node that alone reads a tensor, and once, if it is of that operator."""
        readers = self.readers(name)
        fits = len(readers) == 1 and (domain_of(readers[0].domain), readers[0].op_type) == ("", op_type)
        return readers[0] if fits else None
