"""What the tool of a compiler makes of one-node models: its words for where they run, and what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto
from targets.nodes import target

from graphsurgery.compiling.trials import Played, Trials
from graphsurgery.devices.session import Session
from graphsurgery.probing.compiled import CompilerBackend
from graphsurgery.probing.probe import plan
from graphsurgery.targets.measured import Found


class Stand(Trials):
    """Stands for a tool that leaves a Sigmoid to the CPU, refuses Exp, dies of Neg once, and reads opset 17."""

    precisions = frozenset({"int8"})
    newest_opset = 17
    deaths = 0

    def tool(self) -> tuple[str, str, str]:
        return "a-tool", "1.0", "a chip"

    def play(self, model: ModelProto, feeds: Mapping[str, Any], precision: str, node: str) -> Played:
        (only,) = model.graph.node
        assert only.name == node
        if only.op_type == "Exp":
            return Played(error="no Exp")
        if only.op_type == "Neg" and not self.deaths:
            self.deaths += 1
            return Played(error="it died", crashed=True)
        if only.op_type == "Abs":
            return Played(error="it died", crashed=True)
        if only.op_type == "Tanh":
            return Played(None)
        outputs = Session(model).run(dict(feeds))
        if only.op_type == "Relu":
            outputs = {name: np.zeros_like(value) for name, value in outputs.items()}
        return Played(only.op_type != "Sigmoid", {name: value.ravel() for name, value in outputs.items()})


def outcomes(*ops: str) -> dict[str, Found]:
    found = target(operators=dict.fromkeys(ops, "taken"), precisions=["int8"])
    planned = plan(found, ["int8"], ops, forms=False)
    measured = CompilerBackend(Stand(None)).measure(planned.cases)
    return {case.line.op: each for case, each in zip(planned.cases, measured, strict=True)}


def test_each_outcome_is_told_apart() -> None:
    found = outcomes("Conv", "Sigmoid", "Exp", "Relu", "Abs", "Tanh", "Gelu")
    assert {op: each.outcome for op, each in found.items()} == {
        **{"Conv": "taken", "Sigmoid": "cpu", "Exp": "refused", "Relu": "wrong", "Abs": "crash", "Tanh": "unknown"},
        "Gelu": "unknown",
    }
    assert found["Gelu"].reason == "the tool reads opset 17 at most, and the node is of 20"
    assert found["Conv"].told == "taken, equal"


def test_a_crash_that_an_earlier_model_left_behind_is_none() -> None:
    assert outcomes("Neg")["Neg"].outcome == "taken"


def test_the_layers_of_a_node_go_by_its_name_in_the_table_of_rknn() -> None:
    from graphsurgery.compilers._rknn_table import Layer
    from graphsurgery.compilers._rknn_trials import _is_on_npu

    assert _is_on_npu([Layer("Conv", "node#2", True), Layer("Reshape", "y0_rs", False)], "node") is True
    assert _is_on_npu([Layer("Slice", "node", False), Layer("Reshape", "x", True)], "node") is False
    assert _is_on_npu([Layer("MaxPool", "x0_mp", True), Layer("MaxPool", "x0_mp_mp", False)], "node") is False
    assert _is_on_npu(None, "node") is None
