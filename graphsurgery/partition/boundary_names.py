"""Gives tensors of a graph the names of the captured tensors that they equal.

An exporter's tensor names say nothing and change with its version. The capture's names come from the modules of the
original model, and what a tensor is can be seen by its value: same shape, same values, on every sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto

from graphsurgery.capture.samples import Sample
from graphsurgery.detections.row_groups import Group
from graphsurgery.devices.session import Session
from graphsurgery.gate import row_members
from graphsurgery.gate.matched_rows import Alignment, RowMatch, align
from graphsurgery.gate.ties import resolve_ties
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import as_captured

# Of the largest magnitude in the captured tensor: well above what another summation order does to a deep network,
# well below what tells one feature map from another.
_NEAR = 1e-2
_PIECE = 1 << 15  # elements that are compared before the next are looked at
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


class ExposedGraph:
    """A whole graph that can be run and asked for its outputs, and for tensors inside it. Raises as a Session does."""

    def __init__(self, model: Model, names: Sequence[str] = ()) -> None:
        self._model = model
        self._inputs = model.inputs
        computed = [name for name in dict.fromkeys((*model.outputs, *names)) if name not in self._inputs]
        self._session = Session(expose(model, computed), name="the whole graph") if computed else None

    def run(self, sample: Sample) -> dict[str, np.ndarray]:
        """Return the graph's inputs, and the values of all that it can be asked for on a sample."""
        given = {name: sample.load(name) for name in self._inputs}
        return {**given, **(self._session.run(given) if self._session else {})}

    def as_captured(self, values: Mapping[str, np.ndarray], names: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Return of what `run` gave the outputs and `names`; an output whose type a pass has changed as captured."""
        asked = dict.fromkeys((*self._model.outputs, *names))
        computed = as_captured(self._model.proto, {name: values[name] for name in asked if name not in self._inputs})
        return {name: computed[name] if name in computed else values[name] for name in asked}


def played(model: Model, names: Sequence[str], samples: Sequence[Sample]) -> Iterator[dict[str, np.ndarray]]:
    """Run the graph on each sample and yield the values of its outputs and of the tensors `names`.

    An output whose type a pass has changed comes in the one that was captured.
    """
    if samples:
        graph = ExposedGraph(model, names)
        for sample in samples:
            yield graph.as_captured(graph.run(sample), names)


def name_by_value(
    values: Sequence[Mapping[str, np.ndarray]],
    samples: Sequence[Sample],
    groups: Sequence[Group],
    beside: Sequence[Mapping[str, np.ndarray]] = (),
) -> dict[str, str]:
    """Return {tensor: captured name} for each tensor that equals exactly one captured tensor on every sample.

    `values[i]` were computed on `samples[i]`, and in the same run `beside[i]`, which has its names already: the graph's
    outputs. Rows are sets: boxes that come in another order are the same boxes, and so are the rows that go with them
    (two scores that differ in the last bit only may change places, and a tie may exchange some). A captured tensor is
    given away once: where several tensors equal it, to none.
    """
    candidates: dict[str, set[str]] = {name: set(samples[0].names) for name in values[0]} if values else {}
    for number, (computed, sample) in enumerate(zip(values, samples, strict=True)):
        wanted = set().union(*candidates.values()) if candidates else set()
        shapes = {value.shape for value in computed.values()}
        # of any other shape it equals none, and need not be read
        alike = [name for name in sorted(wanted) if name in sample and sample.shape(name) in shapes]
        captured = {name: sample.load(name) for name in alike}
        orders = _known_orders(beside[number] if beside else {}, sample, groups)
        orders += _row_orders(computed, captured, sample, groups)
        for tensor, names in candidates.items():
            # empty tensors are all alike: they neither prove a name nor refute it, beyond their shape
            names &= {name for name in names & set(captured) if _equal(computed[tensor], captured[name], orders)}
    nonempty = {t for computed in values for t, value in computed.items() if value.size}
    unique = {t: next(iter(names)) for t, names in candidates.items() if len(names) == 1 and t in nonempty}
    taken = list(unique.values())
    return {tensor: name for tensor, name in unique.items() if taken.count(name) == 1}


def _known_orders(beside: Mapping[str, np.ndarray], sample: Sample, groups: Sequence[Group]) -> list[RowMatch]:
    """Return how the rows of detections that have their names stand to the captured ones."""
    orders = []
    for group in groups:
        if all(key in beside and key in sample for key in group.keys):
            found = _align({key: sample.load(key) for key in group.keys}, beside, group, sample)
            if found is not None and _nearly_all(found.unexplained, found.match):
                orders.append(found.match)
    return orders


def _row_orders(
    computed: Mapping[str, np.ndarray],
    captured: Mapping[str, np.ndarray],
    sample: Sample,
    groups: Sequence[Group],
) -> list[RowMatch]:
    """Return how the rows of computed boxes [N,4] stand to captured boxes, where nearly all have a partner or a tie."""
    orders = []
    chosen = {group.keys[0]: group for group in groups if group.worth}
    for name, reference in captured.items():
        for candidate in computed.values():
            if not (_is_boxes(reference) and _is_boxes(candidate)) or reference.shape != candidate.shape:
                continue
            if _near(candidate, reference):
                continue
            group = chosen.get(name, Group((name,)))
            found = _align({name: reference}, {name: candidate}, group, sample)
            if found is not None and _nearly_all(found.unexplained, found.match):
                orders.append(found.match)
    return orders


def _nearly_all(unexplained: int, match: RowMatch) -> bool:
    return unexplained <= _UNMATCHED * 2 * (len(match.reference) + len(match.missing))


def _align(
    reference: Mapping[str, np.ndarray], candidate: Mapping[str, np.ndarray], group: Group, sample: Sample
) -> Alignment | None:
    found = align(reference, candidate, group)
    return found and resolve_ties(
        found, reference, candidate, row_members.aside(sample, group.keys, [group]), Tolerances()
    )


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
    # a piece at a time: most pairs have one shape and differ at once
    allowed = _NEAR * float(np.maximum(np.max(captured, initial=0.0), -np.min(captured, initial=0.0)))
    one, other = computed.reshape(-1), captured.reshape(-1)
    return all(
        bool(np.all(np.abs(one[at : at + _PIECE] - other[at : at + _PIECE]) <= allowed))
        for at in range(0, one.size, _PIECE)
    )
