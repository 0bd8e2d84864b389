"""A model of one node with the values that it is run on: what a probe compiles, plays and compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy.typing as npt
import onnx
from onnx import ModelProto, helper, numpy_helper

from graphsurgery.devices.session import Session
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.graph.model import Model
from graphsurgery.graph.shapes import infer_shapes
from graphsurgery.targets.asked import Asked
from graphsurgery.text import shortened

Array = npt.NDArray[Any]
Attributes = Mapping[str, Any]
Sizes = tuple[int | str, ...]

NODE = "node"
_NAME = "the one-node model"
_PREFIX = f"{_NAME}: ONNX Runtime can't load it: "
_IR = 10


class NotBuilt(Exception):
    """A one-node model that can't be built, and why."""


@dataclass(frozen=True)
class Operand:
    """An input of the node: a value, which is stored in the model where it is `constant`; None: it is left out."""

    value: Array | None
    constant: bool = False

    @property
    def given(self) -> bool:
        """Whether it is fed when the model runs."""
        return self.value is not None and not self.constant


@dataclass(frozen=True)
class OneNode:
    """A node, its operands in ONNX's order, and how it is written.

    `declared` is a shape for its first output, whatever it has by itself: some compilers take an operator whose number
    of results depends on data once that is said. With `open_axis` the first axis of the fed inputs is open. Where it is
    `unordered` it may give out its values along the last axis in any order.
    """

    op: str
    operands: tuple[Operand, ...]
    attributes: Attributes = field(default_factory=dict)
    opset: int = 17
    outputs: int = 1
    declared: Sizes | None = None
    open_axis: bool = False
    unordered: bool = False
    domain: str = ""

    def with_operand(self, index: int, operand: Operand) -> OneNode:
        """Return it with another operand at a place; what lies before it and isn't there is left out."""
        filled = [*self.operands, *[Operand(None)] * (index + 1 - len(self.operands))]
        filled[index] = operand
        return replace(self, operands=tuple(filled))

    @property
    def feeds(self) -> dict[str, Array]:
        """What the model is run on."""
        return {f"x{at}": each.value for at, each in enumerate(self.operands) if each.given and each.value is not None}

    @cached_property
    def results(self) -> dict[str, Array]:
        """What ONNX Runtime computes on the CPU. Raises NotBuilt where it can't."""
        return self.expected(self._proto(None))

    @cached_property
    def proto(self) -> ModelProto:
        """The model, its outputs declared as what ONNX Runtime computes. Raises NotBuilt as `results`."""
        return self._proto(self.results)

    def expected(self, proto: ModelProto) -> dict[str, Array]:
        """Return what ONNX Runtime computes on the CPU of another writing of this model: the quantized one."""
        try:
            return Session(proto, name=_NAME).run(self.feeds)
        except GraphSurgeryError as error:
            said = str(error).rpartition("Status Message: ")[2].rpartition("Exception during initialization: ")[2]
            raise NotBuilt(f"ONNX Runtime can't run it: {shortened(said.removeprefix(_PREFIX), 120)}") from error

    def asked(self) -> Asked:
        """Return its node as `support` asks it."""
        model = Model(self.proto)
        view = model.graph()
        infer_shapes(view)
        return Asked(next(node for node in view.nodes if node.name == NODE), model.opset)

    def _proto(self, results: Mapping[str, Array] | None) -> ModelProto:
        names = [f"x{at}" if each.value is not None else "" for at, each in enumerate(self.operands)]
        outputs = [f"y{at}" for at in range(self.outputs)]
        while names and not names[-1]:
            names.pop()
        try:
            node = helper.make_node(self.op, names, outputs, name=NODE, domain=self.domain, **self.attributes)
        except (TypeError, ValueError) as error:
            raise NotBuilt(f"its attributes can't be written: {error}") from error
        stored = [
            numpy_helper.from_array(each.value, f"x{at}")
            for at, each in enumerate(self.operands)
            if each.constant and each.value is not None
        ]
        inputs = [_declared(name, value, self._open(value.shape)) for name, value in self.feeds.items()]
        ends = [
            helper.make_empty_tensor_value_info(name)
            if results is None
            else _declared(name, results[name], self._ends(results[name].shape, first=name == outputs[0]))
            for name in outputs
        ]
        graph = helper.make_graph([node], "probe", inputs, ends, stored)
        opsets = [helper.make_opsetid("", self.opset)]
        if self.domain:
            opsets.append(helper.make_opsetid(self.domain, 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR)

    def _open(self, shape: tuple[int, ...]) -> Sizes:
        return ("n", *shape[1:]) if self.open_axis and shape else shape

    def _ends(self, shape: tuple[int, ...], *, first: bool) -> Sizes:
        if self.open_axis and shape:
            return ("m", *shape[1:])
        return self.declared if self.declared is not None and first else shape


def _declared(name: str, value: Array, shape: Sizes) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), shape)
