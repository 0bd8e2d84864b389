"""Simulators: what a vendor has in the place of its NPU, to play what its compiler made of a part.

A compiler names its own (`simulator`), and so they are found where compilers are; `--device npu=NAME` takes the name of
such a compiler, as it takes a provider of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from graphsurgery import plugins
from graphsurgery.devices.provider import Provider

_COMPILERS = "graphsurgery.compilers"


class Plays(Protocol):
    """What a part is played by: a session of ONNX Runtime, or a simulator that has it."""

    inputs: list[str]
    outputs: list[str]

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return the named outputs, all when None. Raises InputError for inputs that are missing, and for time."""


class Simulator:
    """Base of simulators. `provider` has the options that stand behind its name and says what it refuses."""

    provider: ClassVar[Provider]

    @classmethod
    def require(cls, place: str) -> None:
        """Raise MissingTool, saying what to install, where it isn't here; `place` begins the message."""
        raise NotImplementedError

    @classmethod
    def open(cls, part: Path, options: Mapping[str, str], name: str, *, allow_fallback: bool) -> Plays:
        """Return what plays the part whose file is `part`; `name` begins messages.

        Raises InputError where it wasn't compiled, or for something else than the options say, and where layers of it
        run on the CPU unless `allow_fallback`; MissingTool.
        """
        raise NotImplementedError


@cache
def simulators() -> Mapping[str, type[Simulator]]:
    """Return the simulators by the names of their compilers."""
    kinds = [value for module in plugins.files_of(_COMPILERS) for value in vars(module).values()]
    found = {}
    for kind in [*kinds, *plugins.entry_points_of(_COMPILERS)]:
        simulator = getattr(kind, "simulator", None)
        if isinstance(kind, type) and isinstance(simulator, type) and issubclass(simulator, Simulator):
            found[str(getattr(kind, "name", ""))] = simulator
    return found
