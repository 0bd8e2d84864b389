"""Give outputs of integers another width: accelerators have int32, and PyTorch's exporters write int64.

    TopK -> labels (int64)   ->   TopK -> Cast -> labels (int32)

    cast-outputs: {outputs: {labels: int32}}
    cast-outputs: {outputs: {"*": int32}}          all of int64
    cast-outputs: {outputs: {labels: int64}}       the way back, for a host that wants them so

The output keeps its name and its place. What else reads it in the graph, and what crosses to another part, stays as it
was. A note in the model's metadata says which type was captured; so the gate still compares the numbers, and the
manifest declares the new type. (The command `check` has no such note to go by where it compares with captured tensors,
and names the type.) A number that int32 can't hold would wrap around, which the gate then sees; where it is
known beforehand, the run ends. `cast-int64` narrows what is inside.

It does not fire when
1. the outputs have that type already; a pattern passes over those of other types

A run ends with an error when
2. no output has that name, or fits that pattern
3. an output that is named holds no int32 or int64
4. it is an input or a constant, so that no node writes it
5. its values lie outside of int32
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import name_nearest
from graphsurgery.graph import consumers, is_op, producer
from graphsurgery.graph.names import matches
from graphsurgery.operators.value_ranges import INT32, Intervals, fits
from graphsurgery.rewrite import TYPES_NOTE, Editor, GraphPass

_INTEGERS = ("int32", "int64")


@dataclass(frozen=True)
class CastOutputs(GraphPass):
    """`outputs` tells the type, int32 or int64, of outputs by name or pattern (with * and ?); the first that fits."""

    name = "cast-outputs"
    effect = "exact"

    outputs: dict[str, str]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, wanted in self.outputs.items():
            if wanted not in _INTEGERS:
                raise ValueError(f"outputs: '{name}' is to be {wanted}; it may be {' or '.join(_INTEGERS)}")

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        graphs.sort(graph)
        names = [tensor.name for tensor in graph.outputs]
        for pattern in self.outputs:
            if not any(matches(name, [pattern]) for name in names):
                raise edit.fail(f"there is no output '{pattern}'.{name_nearest(pattern, names)}")
        intervals = Intervals(edit)
        chosen: list[tuple[gs.Tensor, gs.Node, np.dtype[Any]]] = []
        for tensor in graph.outputs:
            wanted = self._wanted(tensor, edit)
            if wanted is None:
                continue
            node, interval = producer(tensor), intervals.of(tensor)
            if node is None:
                raise edit.fail(f"output '{tensor.name}' is an input or a constant, which no node writes")
            if wanted == np.int32 and interval is not None and not fits(interval, INT32):
                raise edit.fail(f"the values of '{tensor.name}' may be from {interval[0]} to {interval[1]}")
            chosen.append((tensor, node, wanted))
        for tensor, node, wanted in chosen:
            _cast(tensor, node, wanted, edit)

    def _wanted(self, tensor: gs.Tensor, edit: Editor) -> np.dtype[Any] | None:
        """Return the type that an output is to get, None where it stays; raises PassError for a named one of others."""
        pattern = next((pattern for pattern in self.outputs if matches(tensor.name, [pattern])), None)
        has = edit.dtype(tensor)
        if pattern is None or (has is not None and has.name == self.outputs[pattern]):
            return None
        if has is None or has.name not in _INTEGERS:
            if pattern != tensor.name:
                return None
            raise edit.fail(f"output '{tensor.name}' is {has or 'of unknown type'}, not {' or '.join(_INTEGERS)}")
        return np.dtype(self.outputs[pattern])


def _cast(tensor: gs.Tensor, node: gs.Node, wanted: np.dtype[Any], edit: Editor) -> None:
    """Let `tensor`, an output that `node` writes, be of the type `wanted`, and note which it was captured in."""
    had = edit.dtype(tensor)
    if is_op(node, "Cast") and edit.dtype(node.inputs[0]) == wanted and not consumers(tensor):
        edit.bypass(node, node.inputs[0])
    else:
        source = gs.Variable(edit.fresh(f"{tensor.name}_{had}"), had, tensor.shape)
        edit.set_outputs(node, [source if each is tensor else each for each in node.outputs])
        edit.redirect(tensor, source)
        to = int(onnx.helper.np_dtype_to_tensor_dtype(wanted))
        edit.emit("Cast", [source], {"to": to}, hint=tensor.name, writes=tensor)
    edit.retype(tensor, dtype=wanted)
    types = json.loads(edit.metadata.get(TYPES_NOTE, "{}"))
    captured = types.pop(tensor.name, [str(had)])[0]
    if captured != wanted.name:
        types[tensor.name] = [captured, wanted.name]
    edit.metadata[TYPES_NOTE] = json.dumps(types)
    if not types:
        del edit.metadata[TYPES_NOTE]
