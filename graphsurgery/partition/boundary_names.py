"""Gives tensors of a graph the names of the captured tensors that they equal.

An exporter's tensor names say nothing and change with its version. The capture's names come from the modules of the
original model, and what a tensor is can be seen by its value: same shape, same values, on every sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto

from graphsurgery.capture.samples import Sample
from graphsurgery.devices.session import Session
from graphsurgery.gate.matched_rows import RowMatch, match_rows
from graphsurgery.graph.model import Model

# Of the largest magnitude in the captured tensor: well above what another summation order does to a deep network,
# well below what tells one feature map from another.
_NEAR = 1e-2
# Share of boxes that may lack a partner and still be the same list: one at the edge of a top-k may be another.
_UNMATCHED = 0.02


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
    inputs = model.inputs
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

    `values[i]` were computed on `samples[i]`. Boxes that come in another order are the same boxes, and so are the
    rows that go with them: two scores that differ in the last bit only may change places. A captured tensor is given
    away once: where several tensors equal it, to none.
    """
    candidates: dict[str, set[str]] = {name: set(samples[0].names) for name in values[0]} if values else {}
    for computed, sample in zip(values, samples, strict=True):
        wanted = set().union(*candidates.values()) if candidates else set()
        captured = {name: sample.load(name) for name in sorted(wanted) if name in sample}
        orders = _row_orders(computed, captured)
        for tensor, names in candidates.items():
            # empty tensors are all alike: they neither prove a name nor refute it, beyond their shape
            names &= {name for name in names & set(captured) if _equal(computed[tensor], captured[name], orders)}
    nonempty = {t for computed in values for t, value in computed.items() if value.size}
    unique = {t: next(iter(names)) for t, names in candidates.items() if len(names) == 1 and t in nonempty}
    taken = list(unique.values())
    return {tensor: name for tensor, name in unique.items() if taken.count(name) == 1}


def _row_orders(computed: Mapping[str, np.ndarray], captured: Mapping[str, np.ndarray]) -> list[RowMatch]:
    """Return how the rows of computed boxes [N,4] stand to captured boxes, where nearly all have a partner."""
    orders = []
    for reference in (value for value in captured.values() if _is_boxes(value)):
        for candidate in (value for value in computed.values() if _is_boxes(value)):
            if reference.shape != candidate.shape or _near(candidate, reference):
                continue
            match = match_rows(reference, candidate)
            if match.unmatched <= _UNMATCHED * 2 * len(reference):
                orders.append(match)
    return orders


def _is_boxes(value: np.ndarray) -> bool:
    return value.ndim == 2 and value.shape[1] == 4 and len(value) > 1 and value.dtype.kind == "f"


def _equal(computed: np.ndarray, captured: np.ndarray, orders: Sequence[RowMatch]) -> bool:
    if computed.shape != captured.shape or computed.dtype != captured.dtype:
        return False
    if _near(computed, captured):
        return True
    return any(
        _near(computed[order.candidate], captured[order.reference])
        for order in orders
        if captured.ndim and len(captured) == len(order.reference) + len(order.missing)
    )


def _near(computed: np.ndarray, captured: np.ndarray) -> bool:
    if computed.dtype.kind != "f":
        return bool(np.array_equal(computed, captured))
    peak = float(np.max(np.abs(captured), initial=0.0))
    return bool(np.all(np.abs(computed - captured) <= _NEAR * peak))
