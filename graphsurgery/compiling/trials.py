"""What a compiler needs so that `probe` can try its tool: small models compiled and played one after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from onnx import ModelProto


@dataclass(frozen=True)
class Played:
    """What became of a model: whether the NPU ran the node that was asked about, and what was computed.

    `error` is why it was refused; `crashed` says that the tool died or hung over it. `on_npu` is None where the tool
    doesn't say where it ran; `reason` is why not there, as far as the tool tells.
    """

    on_npu: bool | None = None
    outputs: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    error: str | None = None
    crashed: bool = False
    reason: str | None = None


class Trials:
    """Compiles and plays small models with a vendor's tool. `precisions` are what it knows, as targets call them.

    `newest_opset` is the last that it reads, None where that isn't known. With `unequal_sizes` the axes of its models
    should differ in size: a converter may tell them apart by that.
    """

    precisions: ClassVar[frozenset[str]]
    newest_opset: ClassVar[int | None] = None
    unequal_sizes: ClassVar[bool] = False

    def __init__(self, compiler: Any) -> None:
        """`compiler` has the options that its target's file gives it."""

    def tool(self) -> tuple[str, str, str]:
        """Return the tool's package, its version, and for what it compiles. Raises MissingTool."""
        raise NotImplementedError

    def play(self, model: ModelProto, feeds: Mapping[str, npt.NDArray[Any]], precision: str, node: str) -> Played:
        """Compile a model in floats for a precision, whose ranges `feeds` give, and play it on them.

        `node` is the name of the node that is asked about.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End what was started."""
