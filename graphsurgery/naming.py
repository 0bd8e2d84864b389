"""Gives tensors of a graph the names of the captured tensors that they equal.

An exporter's tensor names say nothing and change with its version. The capture's names come from the modules of the
original model, and what a tensor is can be seen by its value: same shape, same values, on every sample.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto

from graphsurgery.capture import Sample
from graphsurgery.model import Model
from graphsurgery.session import Session

# Of the largest magnitude in the captured tensor: well above what another summation order does to a deep network,
# well below what tells one feature map from another.
_NEAR = 1e-2


def expose(model: Model, names: Sequence[str]) -> ModelProto:
    """Return the model with the tensors `names` as its only outputs."""
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    known = {info.name: info for info in (*proto.graph.value_info, *proto.graph.output)}
    outputs = [known.get(name, onnx.ValueInfoProto(name=name)) for name in names]
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    return proto


def values_of(model: Model, names: Sequence[str], samples: Sequence[Sample]) -> list[dict[str, np.ndarray]]:
    """Run the graph once on each sample and return the values of the tensors `names`."""
    inputs = {info.name for info in model.proto.graph.input}
    computed = [name for name in names if name not in inputs]
    session = Session(expose(model, computed), name="the whole graph") if computed else None
    found = []
    for sample in samples:
        given = {name: sample.load(name) for name in inputs}
        values = session.run(given, computed) if session else {}
        found.append({**values, **{name: given[name] for name in names if name in inputs}})
    return found


def name_by_value(values: Sequence[Mapping[str, np.ndarray]], samples: Sequence[Sample]) -> dict[str, str]:
    """Return {tensor: captured name} for each tensor that equals exactly one captured tensor on every sample.

    `values[i]` were computed on `samples[i]`. A captured tensor is given away once: where several tensors equal it,
    to none.
    """
    candidates: dict[str, set[str]] = {name: set(samples[0].names) for name in values[0]} if values else {}
    for computed, sample in zip(values, samples, strict=True):
        wanted = set().union(*candidates.values()) if candidates else set()
        captured = {name: sample.load(name) for name in sorted(wanted)}
        for tensor, names in candidates.items():
            # empty tensors are all alike: they neither prove a name nor refute it, beyond their shape
            names &= {name for name in names if _equal(computed[tensor], captured[name])}
    nonempty = {t for computed in values for t, value in computed.items() if value.size}
    unique = {t: next(iter(names)) for t, names in candidates.items() if len(names) == 1 and t in nonempty}
    taken = [name for name in unique.values()]
    return {tensor: name for tensor, name in unique.items() if taken.count(name) == 1}


def clean_name(name: str) -> str:
    """Return an exporter's tensor name as letters, digits, dots and underscores."""
    return re.sub(r"[^0-9A-Za-z_.]+", "_", name).strip("_.") or "tensor"


def _equal(computed: np.ndarray, captured: np.ndarray) -> bool:
    if computed.shape != captured.shape or computed.dtype != captured.dtype:
        return False
    if computed.dtype.kind != "f":
        return bool(np.array_equal(computed, captured))
    peak = float(np.max(np.abs(captured), initial=0.0))
    return bool(np.all(np.abs(computed - captured) <= _NEAR * peak))
