"""Draws one random graph and values for its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import FunctionProto, ModelProto, NodeProto, ValueInfoProto, helper

from graphsurgery.testing.fuzzing import twists
from graphsurgery.testing.fuzzing.twists import Rejected

OPSETS = (9, 11, 13, 17, 18, 21)

Draw = Callable[[int, int], int]  # an integer between two bounds, both included
_T = TypeVar("_T")


@dataclass(frozen=True)
class Case:
    """A model and values for its inputs; of the tensors `claimed` a wrong shape is written down."""

    model: ModelProto
    inputs: dict[str, np.ndarray]
    claimed: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        shown = (f"{name} = {value.dtype}{list(value.shape)} {value.tolist()}" for name, value in self.inputs.items())
        return "\n".join([onnx.printer.to_text(self.model), *shown])


class Builder:
    """Draws one random graph, node by node. Values are small integers, so that sums are exact in float32."""

    def __init__(self, draw: Draw, opset: int) -> None:
        self._draw = draw
        self.opset = opset
        self._values = np.random.default_rng(draw(0, 2**16))
        self._nodes: list[NodeProto] = []
        self._inputs: dict[str, np.ndarray] = {}
        self._weights: dict[str, np.ndarray] = {}
        self._fixed: set[str] = set()
        self._functions: list[FunctionProto] = []
        self._named = 0

    def integer(self, low: int, high: int) -> int:
        """Draw an integer, both bounds included."""
        return self._draw(low, high)

    def choice(self, options: Sequence[_T]) -> _T:
        """Draw one of `options`; the first is the simplest."""
        return options[self._draw(0, len(options) - 1)]

    def chance(self, times: int) -> bool:
        """Draw True one time in `times`."""
        return self._draw(1, times) == times

    def shape(self, rank: tuple[int, int] = (0, 4), sizes: tuple[int, int] = (1, 5)) -> list[int]:
        """Draw a shape."""
        return [self.integer(*sizes) for _ in range(self.integer(*rank))]

    def dtype(self, choices: Sequence[Any] = (np.float32, np.float32, np.float16, np.float64)) -> np.dtype[Any]:
        """Draw an element type."""
        kind: np.dtype[Any] = np.dtype(self.choice(choices))
        return kind

    def values(self, shape: Sequence[int], dtype: Any = np.float32, scale: float = 1.0) -> np.ndarray:
        """Return integers from -4 to 4 times `scale` (booleans, or integers from 0 to 4, for such a type)."""
        kind = np.dtype(dtype).kind
        low, high = {"b": (0, 2), "u": (0, 5)}.get(kind, (-4, 5))
        drawn = np.asarray(self._values.integers(low, high, list(shape)))  # of rank 0 it is a plain integer
        return np.asarray(drawn * (scale if kind == "f" else 1), dtype)

    def input(self, shape: Sequence[int], dtype: Any = np.float32, *, scale: float = 1.0) -> str:
        """Add a graph input; return its name."""
        name = self._name("x")
        self._inputs[name] = self.values(shape, dtype, scale)
        return name

    def weight(self, shape: Sequence[int], dtype: Any = np.float32, *, scale: float = 1.0) -> str:
        """Add a constant: an initializer, a Constant node or, seldom, a default that a caller overrides."""
        return self.constant(self.values(shape, dtype, scale), overridable=True)

    def constant(self, array: np.ndarray, *, overridable: bool = False) -> str:
        """Add a constant of given values: an initializer or a Constant node."""
        name = self._name("w")
        if self.chance(3):
            value = onnx.numpy_helper.from_array(np.asarray(array), "")
            self._nodes.append(helper.make_node("Constant", [], [name], name=f"{name}_node", value=value))
            return name
        self._weights[name] = np.asarray(array)
        if not (overridable and self.chance(10)):
            self._fixed.add(name)
        return name

    def node(self, op: str, inputs: Sequence[str], *, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Add a node; return the name of what it writes, or a list of names. An attribute that is None is left out."""
        names = [self._name("t") for _ in range(outputs)]
        written = {name: value for name, value in attributes.items() if value is not None}
        self._nodes.append(helper.make_node(op, list(inputs), names, name=f"{names[0]}_node", domain=domain, **written))
        return names[0] if outputs == 1 else names

    def function(self, name: str, inputs: Sequence[str], outputs: Sequence[str], nodes: Sequence[NodeProto]) -> str:
        """Add a function that has the operator set of the model; return its domain, for `node`."""
        domain = "drawn"
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(domain, 1)]
        self._functions.append(helper.make_function(domain, name, inputs, outputs, nodes, opsets))
        return domain

    def reject(self) -> None:
        """Give this combination up: it is no valid model."""
        raise Rejected

    def _name(self, kind: str) -> str:
        self._named += 1
        return f"{kind}{self._named - 1}"

    def finish(self, outputs: Sequence[str]) -> Case:
        """Return the model that has been drawn, twisted in ways that a pass must bear. Raises Rejected."""
        written = [name for node in self._nodes for name in node.output if name]
        ends = list(dict.fromkeys(outputs))
        if self.chance(3):  # what is inside can be seen from outside too
            ends += [name for name in written if name not in ends and self.chance(3)]
        if self.chance(3):
            for name in [*self._inputs, *self._weights, *written]:
                if self.chance(4):
                    ends.append(self.node(self.choice(["Identity", "Shape"]), [name]))
        overridable = [name for name in self._weights if name not in self._fixed]
        given = dict(self._inputs)
        for name in overridable:
            value = self._weights[name]
            given[name] = self.values(value.shape, value.dtype) if value.dtype.kind == "f" else value
        model = self._model(ends, overridable)
        if self.chance(5):
            # before operator set 13 a Loop must carry a value from turn to turn
            op = self.choice(["If", "Loop"]) if self.opset >= 13 else "If"
            given |= twists.nest(model, op, self.chance(2), self.chance(2))
        model = twists.with_types(model)
        claimed: frozenset[str] = frozenset()
        if self.chance(3):
            twists.forget_sizes(model, lambda: self.chance(3))
            claimed = twists.claim_sizes(model, lambda: self.chance(3))
        if self.chance(2):
            del model.graph.value_info[:]
        return Case(model, given, claimed)

    def _model(self, ends: Sequence[str], overridable: Sequence[str]) -> ModelProto:
        values = self._inputs | {name: self._weights[name] for name in overridable}
        kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in values.items()}
        inputs = [helper.make_tensor_value_info(name, kinds[name], value.shape) for name, value in values.items()]
        weights = [onnx.numpy_helper.from_array(value, name) for name, value in self._weights.items()]
        outputs = [ValueInfoProto(name=name) for name in ends]
        graph = helper.make_graph(self._nodes, "drawn", inputs, outputs, weights)
        opset = helper.make_opsetid("", self.opset)
        ir_version = max(8 if self._functions else 4, helper.find_min_ir_version_for([opset]))
        imported = {opset.domain: opset} | {o.domain: o for f in self._functions for o in f.opset_import}
        functions = {"functions": self._functions} if self._functions else {}
        return helper.make_model(graph, opset_imports=list(imported.values()), ir_version=ir_version, **functions)
