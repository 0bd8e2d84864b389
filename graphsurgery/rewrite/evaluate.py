"""The values of tensors that depend on constants and given ones alone, computed with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph.model import Model
from graphsurgery.graph.outside import read_outside


def evaluate(
    graph: gs.Graph, tensors: Sequence[gs.Tensor], inputs: Mapping[str, np.ndarray], folder: Path | None
) -> list[np.ndarray]:
    """Return the values of `tensors` in `graph`, from constants and from those in `inputs`, which are taken as given.

    `folder` is where external data lies. Raises ModelError where that can't be read, and InputError where something
    else is needed too.
    """
    from graphsurgery.devices import session

    wanted = {tensor.name: tensor for tensor in tensors}
    given = {name: np.asarray(value) for name, value in inputs.items()}
    proto = Model.of(graphs.extract(graph, list(wanted.values()), given)).proto
    read_outside(proto, folder)
    for info in proto.graph.input:
        if info.name in given:  # what a node writes often has no type in the file, and an input needs one
            value = given[info.name]
            kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
            info.type.CopyFrom(onnx.helper.make_tensor_type_proto(kind, value.shape))
    values = session.run(proto, given, list(wanted), name="their graph")
    return [values[tensor.name] for tensor in tensors]
