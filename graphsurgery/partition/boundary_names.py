"""Gives tensors of a graph the names of the captured tensors that they equal.

An exporter's tensor names say nothing and change with its version. The capture's names come from the modules of the
original model, and what a tensor is can be seen by its value: same shape, same values, on every sample.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto

from graphsurgery.capture.samples import Sample
from graphsurgery.devices.session import Session
from graphsurgery.gate.matched_rows import RowMatch, match_rows
from graphsurgery.graph.model import Model, bodies, walk_protos
from graphsurgery.rewrite import MASKS_NOTE

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


def clean_name(name: str) -> str:
    """Return an exporter's tensor name as letters, digits, dots and underscores."""
    return re.sub(r"[^0-9A-Za-z_.]+", "_", name).strip("_.") or "tensor"


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


def rename_tensors(model: Model, names: Mapping[str, str]) -> Model:
    """Return the model with tensors renamed, in bodies too; a tensor that has a wanted name already makes way.

    An input or output of the graph does not make way: then the name is not given.
    """
    ends = {info.name for info in (*model.proto.graph.input, *model.proto.graph.output)} - set(names)
    names = {old: new for old, new in names.items() if new not in ends}
    if not names:
        return model
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    present = tensor_names(proto)
    mapping = dict(names)
    for wanted in names.values():
        if wanted in present and wanted not in names:
            mapping[wanted] = fresh(f"{wanted}_inner", present | set(names.values()))
    graphs = [proto.graph, *(body for node in walk_protos(proto.graph) for body in bodies(node))]
    for graph in graphs:
        sparse = [tensor.values for tensor in graph.sparse_initializer]
        for info in (*graph.input, *graph.output, *graph.value_info, *graph.initializer, *sparse):
            if info.name in mapping:
                info.name = mapping[info.name]
        for note in graph.quantization_annotation:
            note.tensor_name = mapping.get(note.tensor_name, note.tensor_name)
            for entry in note.quant_parameter_tensor_names:
                entry.value = mapping.get(entry.value, entry.value)
        for node in graph.node:
            node.input[:] = [mapping.get(name, name) for name in node.input]
            node.output[:] = [mapping.get(name, name) for name in node.output]
    for note in proto.metadata_props:
        if note.key == MASKS_NOTE:
            name = json.loads(note.value)
            note.value = json.dumps(mapping.get(name, name))
    return Model(proto, model.folder)


def tensor_names(proto: ModelProto) -> set[str]:
    names = {name for node in walk_protos(proto.graph) for name in (*node.input, *node.output)}
    return names | {info.name for info in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer)}


def fresh(hint: str, taken: set[str]) -> str:
    """Return `hint`, or `hint` and a number, whichever is not taken."""
    return next(name for name in (hint, *(f"{hint}_{n}" for n in range(2, len(taken) + 3))) if name not in taken)
