"""Quantizers behind the pass `quantize`, one file each: onnxruntime, quark, vai_q_onnx.

A backend is a module of this package with two functions:

    check(settings)                                      raises ValueError for settings that it can't do
    quantize(model, calibration, settings, progress)     ModelProto -> ModelProto

and is imported when a recipe names it, so that the others need not be installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import numpy as np
from onnx import ModelProto

__all__ = ["BACKENDS", "Backend", "Calibration", "Settings", "backend"]

BACKENDS = ("onnxruntime", "quark", "vai_q_onnx")

Number = Literal["uint8", "int8", "uint16", "int16"]


@dataclass(frozen=True)
class Settings:
    """How to quantize; None leaves a choice to the backend, or to its named `config`.

    `exclude` are patterns of node names (as fnmatch has them) and `exclude_ops` operator types that stay float.
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
