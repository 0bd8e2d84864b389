"""Runs one custom operator in a graph of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper

from graphsurgery.devices.session import Session
from graphsurgery.graph.expansion import expanded


def single(
    op: str, inputs: Mapping[str, np.ndarray[Any, Any]], outputs: int = 1, opset: int = 11, **attributes: Any
) -> ModelProto:
    """Return a model of one node, `op` written as domain.Name, whose inputs are like `inputs` but of any size."""
    domain, _, name = op.rpartition(".")
    infos = [
        helper.make_tensor_value_info(
            each, helper.np_dtype_to_tensor_dtype(value.dtype), [f"{each}{axis}" for axis in range(value.ndim)]
        )
        for each, value in inputs.items()
    ]
    results = [f"y{number}" for number in range(outputs)]
    node = helper.make_node(name, list(inputs), results, name="it", domain=domain, **attributes)
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name=each) for each in results])
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, ir_version=8, opset_imports=imports)


def play(
    op: str, inputs: Mapping[str, np.ndarray[Any, Any]], outputs: int = 1, opset: int = 11, **attributes: Any
) -> list[np.ndarray[Any, Any]]:
    """Return what a model of one node writes, which is checked with the types of that."""
    model = single(op, inputs, outputs, opset, **attributes)
    found = Session(model, threads=1).run(inputs)
    for info, value in zip(model.graph.output, found.values(), strict=True):
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        info.type.CopyFrom(helper.make_tensor_type_proto(kind, value.shape))
    onnx.checker.check_model(expanded(model), full_check=True)
    return list(found.values())
