"""Probes through a compiler whose tool compiles and plays small models (`compiling.trials`)."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from graphsurgery.compiling.trials import Played, Trials
from graphsurgery.probing.cases import Case
from graphsurgery.probing.equality import compare
from graphsurgery.probing.one_node import NODE, NotBuilt
from graphsurgery.targets.measured import Found, Tool
from graphsurgery.targets.schema import Outcome
from graphsurgery.text import shortened


@dataclass
class CompilerBackend:
    """The tool of a compiler. It gets the model in floats and quantizes by itself, so floats are what is expected."""

    trials: Trials
    precisions: frozenset[str] = field(init=False)
    unequal_sizes: bool = field(init=False)

    def __post_init__(self) -> None:
        self.precisions = self.trials.precisions
        self.unequal_sizes = self.trials.unequal_sizes

    def tool(self) -> Tool:
        name, version, beside = self.trials.tool()
        return Tool(name, version, beside, f"{platform.system()} {platform.machine()}")

    def measure(self, cases: Sequence[Case]) -> Iterator[Found]:
        try:
            for case in cases:
                try:
                    yield self._measured(case)
                except NotBuilt as error:
                    yield Found("unknown", reason=str(error))
        finally:
            self.trials.close()

    def _measured(self, case: Case) -> Found:
        node, newest = case.node, self.trials.newest_opset
        if newest is not None and node.opset > newest:
            return Found("unknown", reason=f"the tool reads opset {newest} at most, and the node is of {node.opset}")
        played = self._played(case)
        if played.crashed:  # what an earlier model left in the process may be why
            played = self._played(case)
        if played.error is not None:
            return Found("crash" if played.crashed else "refused", reason=shortened(played.error, 200))
        if played.on_npu is None:
            return Found("unknown", reason=played.reason or "the tool doesn't say where it runs")
        equality = compare(node.results, _shaped(played, node.results), unordered=node.unordered)
        if not played.on_npu:
            return Found("cpu", equality.decibels, equality.remark, played.reason)
        outcome: Outcome = "taken" if equality.holds(case.precision) else "wrong"
        return Found(outcome, equality.decibels, equality.remark)

    def _played(self, case: Case) -> Played:
        return self.trials.play(case.node.proto, case.node.feeds, case.precision, NODE)


def _shaped(played: Played, expected: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs in the shapes that are expected, where they have as many elements; none is a missing one."""
    found: dict[str, npt.NDArray[Any]] = {}
    for name, wanted in expected.items():
        got = np.asarray(played.outputs.get(name, np.empty(0, wanted.dtype)))
        found[name] = got.reshape(wanted.shape) if got.size == wanted.size else got
    return found
