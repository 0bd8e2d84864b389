"""The parts under the names that a recipe gives them: what each takes along, and whether the graph has as many."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import InputError, ModelError
from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import SAMPLED_NOTE
from graphsurgery.graph.view import table
from graphsurgery.partition.boundaries import Cut
from graphsurgery.partition.by_target import ByTarget
from graphsurgery.partition.cut import find_cut
from graphsurgery.partition.operator_names import is_known, is_named, unknown
from graphsurgery.partition.stages import CutPoints
from graphsurgery.parts.part import Part, is_numpys
from graphsurgery.rewrite.context import PassesFor, none_known


def find_named_cut(
    graph: gs.Graph,
    at: str | CutPoints | ByTarget,
    devices: Mapping[str, str],
    include: Mapping[str, Collection[str]],
    supported: Collection[str] = (),
    passes_for: PassesFor = none_known,
) -> Cut:
    """Find the parts as `find_cut` does; `include` names them as `devices` does, in the order data flows.

    Which name is whose follows from the cut: a part with weights may be on the cpu, and what a part takes along may
    leave nothing of the host part behind it. Where a node that no accelerator runs stands between the weights of a
    stage, the stage is the host's, if the recipe has its parts so. Raises InputError for a part that has no weights,
    for an operator that doesn't stand behind them, and for a tensor that can't cross.
    """
    at = CutPoints.of(at) if isinstance(at, str) else at
    try:
        return _find(graph, at, devices, include, supported, passes_for)
    except ModelError as error:
        named = at.operators if isinstance(at, CutPoints) else ()
        absent = [op for op in named if not any(is_named(node, op) for node in graph.nodes)]
        if not absent:
            raise
        raise ModelError(
            f"partition.at: the graph has no {' and no '.join(absent)} to cut at; besides, {error}"
        ) from error


def _find(
    graph: gs.Graph,
    at: CutPoints | ByTarget,
    devices: Mapping[str, str],
    include: Mapping[str, Collection[str]],
    supported: Collection[str],
    passes_for: PassesFor,
) -> Cut:
    found = find_cut(graph, at, (), supported, strict=False)
    between, on_host = found.between, {node.stage for node in found.between}
    if between:
        if len(on_host) == sum(found.accelerator):
            raise ModelError(between[0].explain(passes_for))
        found = find_cut(graph, at, (), supported, on_host)
    if not include:
        if between and not _fits(found, devices):
            raise ModelError(between[0].explain(passes_for))
        _require_numpys(found)
        return found
    for weighted in combinations(devices, sum(found.accelerator)):
        if any(device != "cpu" and name not in weighted for name, device in devices.items()):
            continue
        cut = find_cut(graph, at, [include.get(name, ()) for name in weighted], supported, on_host)
        if cut.accelerator == [name in weighted for name in devices]:
            _require_taken(cut, weighted, include)
            _require_numpys(cut)
            return cut
    if between:
        raise ModelError(between[0].explain(passes_for))
    return found  # other parts than are named; extract_parts says so


def extract_parts(cut: Cut, devices: Mapping[str, str], folder: Path | None = None) -> list[Part]:
    """Return the parts of `cut` under the recipe's names; `devices` maps name to device in the order data flows.

    `folder` is where external data lies. Raises InputError when the recipe names other parts than there are.
    """
    if not _fits(cut, devices):
        found = ", ".join("accelerator" if kind else "host" for kind in cut.accelerator)
        named = ", ".join(f"{name}: {device}" for name, device in devices.items())
        raise InputError(f"partition.parts names {named}, but the graph has: {found}; name one for each, in this order")
    parts = []
    for index, (name, device) in enumerate(devices.items()):
        inputs = {tensor.name for tensor in cut.inputs[index]}
        view = graphs.extract(cut.graph, cut.outputs[index], inputs, with_defaults=True)
        view.name = name
        ends = {tensor.name for tensor in (*view.inputs, *view.outputs)}
        if own := {tensor: axes for tensor, axes in cut.sampled.items() if tensor in ends}:
            table(view).metadata[SAMPLED_NOTE] = json.dumps(own)
        parts.append(Part(name, device, cut.accelerator[index], Model.of(view, folder)))
    return parts


def _fits(cut: Cut, devices: Mapping[str, str]) -> bool:
    wanted = [device != "cpu" for device in devices.values()]
    return len(wanted) == len(cut.accelerator) and not any(
        w and not a for w, a in zip(wanted, cut.accelerator, strict=True)
    )


def _require_numpys(cut: Cut) -> None:
    for tensor in cut.crossing():
        if isinstance(tensor.dtype, np.dtype) and not is_numpys(tensor.dtype):
            raise InputError(
                f"partition: '{tensor.name}' would leave one part for another, but is {tensor.dtype}, which NumPy "
                f"doesn't have, so that it can't be handed over; cast it to float32 in the graph, or cut elsewhere"
            )


def _require_taken(cut: Cut, weighted: Sequence[str], include: Mapping[str, Collection[str]]) -> None:
    """Raise InputError for what `include` names in vain; `weighted` are the names of the accelerator parts."""
    accelerated = [nodes for nodes, kind in zip(cut.behind, cut.accelerator, strict=True) if kind]
    behind = dict(zip(weighted, accelerated, strict=True))
    for name, op in ((name, op) for name, ops in include.items() for op in ops):
        if name not in behind:
            raise InputError(
                f"partition.include: part '{name}' has no weights, so nothing stands behind them; "
                f"those that have are {', '.join(weighted)}"
            )
        if any(is_named(node, op) for node in behind[name]):
            continue
        if not is_known(op, cut.graph):
            raise InputError(f"partition.include: {unknown(op, cut.graph)}")
        raise InputError(
            f"partition.include: no {op} stands right behind the weights of part '{name}', reading nothing that other "
            f"parts compute; leave it out, or name what stands there"
        )
