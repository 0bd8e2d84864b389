"""Where a vendor's tool says that the layers of a part run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict


class Layer(BaseModel):
    """A layer as the tool names it, made of one node or of several that it fuses, and whether the NPU runs it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    op: str
    name: str
    on_npu: bool

    def __init__(self, op: str, name: str, on_npu: bool, **other: Any) -> None:
        super().__init__(op=op, name=name, on_npu=on_npu, **other)


class Placed(BaseModel):
    """How many layers a part has, and which of them are left to the CPU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: int
    on_cpu: tuple[Layer, ...] = ()

    @staticmethod
    def of(layers: Sequence[Layer]) -> Placed:
        """Return what a table of layers says."""
        return Placed(layers=len(layers), on_cpu=tuple(layer for layer in layers if not layer.on_npu))

    @property
    def on_npu(self) -> int:
        """How many layers the NPU runs."""
        return self.layers - len(self.on_cpu)
