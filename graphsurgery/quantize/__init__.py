"""Quantizers behind the pass `quantize`, one file each: onnxruntime, quark, vai_q_onnx.

A backend is a module of this package with two functions:

    check(settings)                                      raises ValueError for settings that it can't do
    quantize(model, calibration, settings, progress)     ModelProto -> ModelProto

and is imported when a recipe names it, so that the others need not be installed. One that can quantize again with
other nodes excluded, without calibrating anew, has a third:

    prepare(model, calibration, settings, progress)      (excluded patterns -> ModelProto)

`normalise` brings a model into the form that quantizers can take, and back; `ranges` gathers what tensors hold over the
calibration, `sqnr` measures what quantizing cost.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast

import numpy as np
from onnx import ModelProto, NodeProto

from graphsurgery.graph.names import matches
from graphsurgery.progress import Progress

__all__ = [
    "BACKENDS",
    "Backend",
    "Calibration",
    "Quantize",
    "Settings",
    "backend",
    "is_excluded",
    "name_nodes",
    "prepare",
]

BACKENDS = ("onnxruntime", "quark", "vai_q_onnx")

Number = Literal["uint8", "int8", "uint16", "int16"]
Quantize = Callable[[tuple[str, ...]], ModelProto]  # from patterns of node names that stay float


@dataclass(frozen=True)
class Settings:
    """How to quantize; None leaves a choice to the backend, or to its named `config`.

    `exclude` are patterns of node names (`names.matches`) and `exclude_ops` operator types that stay float.
    `seconds` limits each call of the quantizer. `style` is a form that one runtime reads.
    """

    format: Literal["qdq", "qoperator"] | None = None
    per_channel: bool | None = None
    method: Literal["minmax", "entropy", "percentile", "min_mse"] | None = None
    activations: Number | None = None
    weights: Number | None = None
    symmetric_activations: bool | None = None
    symmetric_weights: bool | None = None
    exclude: tuple[str, ...] = ()
    exclude_ops: tuple[str, ...] = ()
    config: str | None = None
    seconds: float | None = None
    style: Literal["systolic"] | None = None


class Calibration(Protocol):
    """Inputs of the model that is quantized, one run after another, read from disk as they are asked for.

    Iterating again begins again.
    """

    @property
    def inputs(self) -> Sequence[str]:
        """Names of the model's inputs."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]: ...


class Backend(Protocol):
    """What the module of a backend offers."""

    def check(self, settings: Settings) -> None:
        """Raise ValueError, saying what is possible, for settings that this quantizer can't do."""

    def quantize(
        self, model: ModelProto, calibration: Calibration, settings: Settings, progress: Callable[[int, int], None]
    ) -> ModelProto:
        """Return the quantized model. Raises MissingTool where the package is not installed."""


def backend(name: str) -> Backend:
    """Return the backend of that name. Raises ValueError for one that there is not."""
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {name!r}")
    return cast(Backend, importlib.import_module(f"graphsurgery.quantize.{name}"))


def prepare(name: str, model: ModelProto, calibration: Calibration, settings: Settings, progress: Progress) -> Quantize:
    """Return what quantizes `model` but for the nodes it is given, in place of `settings.exclude`.

    A backend that can calibrates once, now; another one does so, and tells `progress`, each time it is called.
    """
    chosen = backend(name)
    once = getattr(chosen, "prepare", None)
    if once is not None:
        return cast(Quantize, once(model, calibration, settings, progress))
    return lambda exclude: chosen.quantize(model, calibration, replace(settings, exclude=exclude), progress)


def name_nodes(model: ModelProto) -> None:
    """Give each node of the graph that has no name, or the name of an earlier one, a name of its own.

    Quantizers and `exclude` know a node by its name only.
    """
    given = {node.name for node in model.graph.node}
    taken: set[str] = {""}
    for node in model.graph.node:
        if node.name in taken:
            hint = node.name or f"{next(iter(node.output), 'node')}_{node.op_type}"
            node.name, number = hint, 1
            while node.name in given:
                number += 1
                node.name = f"{hint}_{number}"
            given.add(node.name)
        taken.add(node.name)


def is_excluded(node: NodeProto, settings: Settings) -> bool:
    """Whether `node` stays float: by its operator, its name, or a pattern of names."""
    return matches(node.name, settings.exclude) or node.op_type in settings.exclude_ops
